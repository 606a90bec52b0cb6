// The state of the run, kept fresh while somebody looks: one store, one timer, nothing that grows.
(function () {
  "use strict";
  const Haven = (window.HavenVlm = window.HavenVlm || {});
  const { number, text, list } = Haven.text;
  const PERIOD_MS = 1000;
  const JOBS_EVERY = 2; // ticks
  const SPARE_EVERY = 15; // ticks: the operations stand in for files that cannot be written; each is a process
  const UNFINISHED = ["preparing", "running", "waiting"];

  let state = { loaded: false, status: null, age_s: 0, runs: [], check: null, jobs: [], jobs_at: 0, error: "" };
  const listeners = new Set();
  let timer = 0;
  let ticking = false;
  let ticks = 0;
  let known = ""; // what runs.json and check.json were read for

  function publish(changes) {
    state = { ...state, ...changes };
    for (const listener of Array.from(listeners)) listener(state);
  }

  /** A status as the page needs it, bounded, with numbers where numbers belong. */
  function readStatus(raw) {
    if (!raw) return null;
    const media = raw.media || {};
    const questions = raw.questions || {};
    const looking = raw.looking_at;
    return {
      run_id: text(raw.run_id),
      token: text(raw.token),
      mode: text(raw.mode),
      state: text(raw.state),
      message: text(raw.message),
      started: raw.started,
      updated: number(raw.updated),
      stale_after_s: number(raw.stale_after_s, 15),
      progress: Math.min(1, Math.max(0, number(raw.progress))),
      total: number(media.total),
      done: number(media.done),
      current: list(media.current, 16),
      asked: number(questions.asked),
      planned: number(questions.planned),
      known: number(questions.known),
      inherited: number(questions.inherited),
      failed: number(questions.failed),
      rate: number(raw.rate_per_minute),
      eta_s: number(raw.eta_seconds, null),
      endpoints: list(raw.endpoints, 64),
      left_network: number(raw.left_network),
      looking_at: looking && typeof looking === "object" ? looking : null,
      causes: list(raw.causes, 20),
      others: list(raw.others, 4),
    };
  }

  /** One file, or, where the plugin's folder cannot be written to, the operation of the same name now and then. */
  async function fileOrOperation(name, spare) {
    const file = await Haven.stash.liveFile(name + ".json");
    if (file.data || !spare) return file;
    try {
      return { data: await Haven.stash.operation(name), now_ms: file.now_ms };
    } catch (error) {
      return file;
    }
  }

  async function tick() {
    if (ticking) return;
    ticking = true;
    try {
      const spare = ticks % SPARE_EVERY === 0;
      const asks = ticks % JOBS_EVERY === 0;
      const began = performance.now();
      const [file, jobs] = await Promise.all([fileOrOperation("status", spare), asks ? Haven.stash.jobs() : state.jobs]);
      ticks += 1;
      const changes = { loaded: true, error: "", jobs, jobs_at: asks ? began : state.jobs_at };
      const status = readStatus(file.data);
      if (status && status.state) {
        changes.status = status;
        changes.age_s = Math.max(0, (file.now_ms - status.updated) / 1000);
      }
      const wanted = status ? [status.run_id, status.token, UNFINISHED.includes(status.state)].join(" ") : "none";
      if (wanted !== known) {
        const [runs, check] = await Promise.all([fileOrOperation("runs", spare), fileOrOperation("check", spare)]);
        changes.runs = list(runs.data && runs.data.runs, 50);
        changes.check = check.data && Array.isArray(check.data.sections) ? check.data : null;
        known = wanted;
      }
      publish(changes);
    } catch (error) {
      publish({ loaded: true, error: error.message });
    } finally {
      ticking = false;
      plan();
    }
  }

  function plan() {
    clearTimeout(timer);
    timer = 0;
    if (listeners.size && !document.hidden) timer = setTimeout(tick, PERIOD_MS);
  }

  /** Look now: somebody pressed something, or came back. */
  function hurry() {
    ticks = 0;
    clearTimeout(timer);
    timer = 0;
    if (listeners.size && !document.hidden) tick();
  }

  document.addEventListener("visibilitychange", hurry);

  /** React hook: the state, renewed every second while the page is seen. */
  function useLive() {
    const React = window.PluginApi.React;
    const [seen, setSeen] = React.useState(state);
    React.useEffect(() => {
      listeners.add(setSeen);
      hurry();
      return () => {
        listeners.delete(setSeen);
        plan();
      };
    }, []);
    return seen;
  }

  /** What a run is doing: its state, or 'stopped' when it has said nothing for too long. */
  function phase(live) {
    const status = live.status;
    if (!status) return "none";
    if (UNFINISHED.includes(status.state)) return live.age_s > status.stale_after_s ? "stopped" : status.state;
    return status.state === "failed" ? "failed" : "finished";
  }

  /** The job that is the run seen, to be stopped. A name alone could be another plugin's task: then our run must be alive. */
  function runningJob(live) {
    const alive = UNFINISHED.includes(phase(live));
    return live.jobs.find((job) => job.status === "RUNNING" && (job.ours || (job.named && alive))) || null;
  }

  Haven.live = { useLive, hurry, phase, runningJob, readStatus, UNFINISHED };
})();
