// The first view: start tasks, and watch the run that goes on.
(function () {
  "use strict";
  const Haven = (window.HavenVlm = window.HavenVlm || {});
  const { React } = window.PluginApi;
  const h = React.createElement;
  const { text, number, list, clock, duration, percent, count, plural } = Haven.text;
  const { Button, Notice, Badge, Confirm, useWork } = Haven.parts;

  const TASKS = [
    { mode: "tag_videos", look: "primary", title: "Look at all scenes tagged VLM_TagMe and write tags and markers" },
    { mode: "tag_images", look: "primary", title: "Look at all images tagged VLM_TagMe and write tags" },
    { mode: "preview", title: "Look at what is tagged VLM_TagMe and report what would be written, without writing" },
    { mode: "update", title: "Apply changed settings to media tagged VLM_UpdateMe" },
    { mode: "undo", look: "outline-danger", title: "Take back what the last run wrote, except what you have changed since" },
    { mode: "check_endpoints", title: "Test the model servers, the settings and the connection to Stash" },
  ];

  /** Buttons for all tasks; what takes things back asks first. */
  function Tasks() {
    const [busy, error, start] = useWork();
    const [said, setSaid] = React.useState("");
    const [asking, setAsking] = React.useState(false);
    const run = async (mode) => {
      setSaid("");
      const job = await start(() => Haven.stash.runTask(mode, {}));
      if (job !== undefined) setSaid(Haven.text.mode(mode) + " was put into Stash's queue.");
      Haven.live.hurry();
    };
    return h(
      "div",
      { className: "haven-tasks" },
      h(
        "div",
        { className: "haven-buttons", role: "group", "aria-label": "Tasks" },
        TASKS.map((task) =>
          h(
            Button,
            {
              key: task.mode,
              look: task.look,
              title: task.title,
              disabled: busy,
              "data-task": task.mode,
              onClick: () => (task.mode === "undo" ? setAsking(true) : run(task.mode)),
            },
            Haven.text.mode(task.mode),
          ),
        ),
      ),
      error ? h(Notice, { kind: "problem" }, error) : null,
      said ? h(Notice, { kind: "good", onClose: () => setSaid("") }, said) : null,
      asking
        ? h(
            Confirm,
            {
              title: "Undo the last run?",
              action: "Undo Last Run",
              onAnswer: (yes) => {
                setAsking(false);
                if (yes) run("undo");
              },
            },
            "All tags and markers that the last run wrote are removed, except what you have changed since. " +
              "The answers are kept: tagging again asks nothing twice.",
          )
        : null,
    );
  }

  const PHASES = {
    preparing: ["busy", "Preparing"],
    running: ["busy", "Running"],
    waiting: ["warn", "Waiting"],
    finished: ["good", "Finished"],
    failed: ["bad", "Failed"],
    stopped: ["warn", "Stopped"],
  };

  function Figure({ label, children }) {
    return h("div", { className: "haven-figure" }, h("dt", null, label), h("dd", null, children));
  }

  function Figures({ status, phase }) {
    const going = Haven.live.UNFINISHED.includes(phase);
    const settled = status.asked + status.known + status.inherited + status.failed;
    return h(
      "dl",
      { className: "haven-figures" },
      h(Figure, { label: "Media" }, count(status.done), " of ", count(status.total)),
      h(Figure, { label: "Frames" }, count(settled), " of ", count(Math.max(status.planned, settled))),
      h(Figure, { label: "Asked" }, count(status.asked)),
      h(Figure, { label: "Known" }, count(status.known)),
      h(Figure, { label: "Inherited" }, count(status.inherited)),
      h(Figure, { label: "Failed" }, count(status.failed)),
      h(Figure, { label: "Frames/min" }, count(status.rate)),
      h(Figure, { label: "Time left" }, going && status.eta_s !== null ? "about " + duration(status.eta_s) : "–"),
      h(
        Figure,
        { label: "Left the network" },
        status.left_network ? plural(status.left_network, "frame") : "nothing",
      ),
    );
  }

  /** Stop the job that is the run; nothing to press for a run that Stash did not start. */
  function Stop({ live }) {
    const [busy, error, start] = useWork();
    const job = Haven.live.runningJob(live);
    if (!job) return null;
    return h(
      React.Fragment,
      null,
      h(
        Button,
        {
          look: "danger",
          disabled: busy || job.status === "STOPPING",
          "data-stop": job.id,
          onClick: async () => {
            await start(() => Haven.stash.stopJob(job.id));
            Haven.live.hurry();
          },
        },
        "Stop",
      ),
      error ? h(Notice, { kind: "problem" }, error) : null,
    );
  }

  /** Address of the picture: a small copy of a video's frame beside the status; of an image Stash's own thumbnail. */
  function addressOf(looking) {
    if (text(looking.image)) return Haven.stash.liveAddress(text(looking.image));
    const id = text(looking.id);
    return text(looking.kind) === "image" && /^\d+$/.test(id) ? Haven.stash.base() + "image/" + id + "/thumbnail" : "";
  }

  function Looking({ looking }) {
    const image = addressOf(looking);
    const [broken, setBroken] = React.useState("");
    const title = text(looking.title) || "untitled";
    return h(
      "figure",
      { className: "haven-looking" },
      image && broken !== image
        ? h("img", { src: image, alt: "The frame asked about last", onError: () => setBroken(image) })
        : h("div", { className: "haven-no-picture" }, "no picture"),
      h(
        "figcaption",
        null,
        "Looking at ",
        h("strong", null, title),
        text(looking.kind) === "scene" ? " at " + clock(looking.time_s) : null,
      ),
    );
  }

  const STATES = { ready: "good", preparing: "busy", "cooling down": "warn", parked: "bad", unused: "quiet" };

  function endpointRow(endpoint, index) {
    const state = text(endpoint.state);
    const kind = Object.prototype.hasOwnProperty.call(STATES, state) ? STATES[state] : "quiet";
    const until = number(endpoint.until, null);
    const failures = Object.entries(endpoint.failures && typeof endpoint.failures === "object" ? endpoint.failures : {});
    return h(
      "tr",
      { key: index },
      h(
        "th",
        { scope: "row" },
        text(endpoint.name),
        endpoint.remote === true ? h(Badge, { kind: "warn" }, "remote") : null,
        h("div", { className: "haven-quiet" }, text(endpoint.model)),
      ),
      h(
        "td",
        null,
        h(Badge, { kind }, state),
        until !== null ? h("span", { className: "haven-quiet" }, " again in " + duration(until)) : null,
        text(endpoint.reason) ? h("div", { className: "haven-reason" }, text(endpoint.reason)) : null,
      ),
      h("td", null, count(endpoint.in_flight) + " / " + count(endpoint.limit)),
      h("td", null, count(endpoint.done)),
      h("td", null, percent(endpoint.share), h("span", { className: "haven-quiet" }, " of " + percent(endpoint.weight_share))),
      h("td", null, number(endpoint.p50_ms) ? (number(endpoint.p50_ms) / 1000).toFixed(1) + " / " + (number(endpoint.p95_ms) / 1000).toFixed(1) + " s" : "–"),
      h("td", null, count(endpoint.tokens_in_per_s) + " / " + count(endpoint.tokens_out_per_s)),
      h("td", null, percent(endpoint.cached_share)),
      h("td", null, failures.length ? failures.slice(0, 8).map(([name, n]) => text(n) + " × " + name).join(", ") : "none"),
    );
  }

  function Endpoints({ endpoints }) {
    const heads = ["Endpoint", "State", "In flight", "Answers", "Share (by weight)", "Time p50 / p95", "Tokens/s in / out", "Cached", "Failures"];
    return h(
      "div",
      { className: "haven-scroll", tabIndex: 0, role: "region", "aria-label": "Endpoints" },
      h(
        "table",
        { className: "table table-striped haven-table", "data-endpoints": "" },
        h("thead", null, h("tr", null, heads.map((head) => h("th", { key: head, scope: "col" }, head)))),
        h("tbody", null, endpoints.map(endpointRow)),
      ),
    );
  }

  function Causes({ causes }) {
    if (!causes.length) return null;
    return h(
      "div",
      null,
      h("h5", null, "What was not tagged, and why"),
      h("ul", null, causes.map((cause, index) => h("li", { key: index }, plural(cause.count, "time"), ": ", text(cause.reason)))),
    );
  }

  function Current({ current }) {
    if (!current.length) return null;
    return h(
      "ul",
      { className: "haven-current", "aria-label": "Under way" },
      current.map((medium) => {
        const planned = Math.max(1, number(medium.planned));
        const label = text(medium.title) || text(medium.kind) + " " + text(medium.id);
        return h(
          "li",
          { key: text(medium.kind) + text(medium.id) },
          h("span", { className: "haven-current-title" }, label),
          h("progress", { value: Math.min(number(medium.done), planned), max: planned, "aria-label": label }),
          h("span", { className: "haven-quiet" }, count(medium.done) + " / " + count(medium.planned)),
        );
      }),
    );
  }

  /** The run that goes on, or how the last one went. */
  /** Runs that go on beside the one that is shown, such as one of cron's. */
  function Others({ others }) {
    if (!others.length) return null;
    return h(
      "div",
      { "data-others": others.length },
      h("h5", null, "Also under way"),
      h(
        "ul",
        null,
        others.map((other, index) =>
          h(
            "li",
            { key: index },
            Haven.text.mode(other.mode) + " · run " + text(other.run_id) + ": " + percent(other.progress),
            " · " + count(other.done) + " of " + count(other.total) + " media",
            text(other.message) ? " · " + text(other.message) : "",
          ),
        ),
      ),
    );
  }

  function RunCard({ live }) {
    const status = live.status;
    const phase = Haven.live.phase(live);
    const waiting = live.jobs.filter((job) => job.ours && job.status === "READY");
    if (!status) {
      return h(
        "section",
        { className: "card haven-card", "aria-label": "The run" },
        h("p", null, live.loaded ? "No run yet. Tag scenes with VLM_TagMe in Stash, then press Tag Videos." : "Loading …"),
        h(Stop, { live }),
      );
    }
    const [kind, word] = PHASES[phase] || ["quiet", status.state];
    const share = Math.round(status.progress * 1000) / 10;
    return h(
      "section",
      { className: "card haven-card", "aria-label": "The run" },
      h(
        "div",
        { className: "haven-run-head" },
        h("h4", null, Haven.text.mode(status.mode), status.run_id !== "0" && status.run_id ? " · run " + status.run_id : ""),
        h("span", { "data-phase": phase, role: "status" }, h(Badge, { kind }, word)),
        h(Stop, { live }),
      ),
      h(
        "div",
        {
          className: "progress haven-progress",
          role: "progressbar",
          "aria-label": "Progress of the run",
          "aria-valuemin": 0,
          "aria-valuemax": 100,
          "aria-valuenow": share,
        },
        h("div", { className: "progress-bar", style: { width: share + "%" } }),
      ),
      h("p", { className: "haven-message" }, h("strong", null, percent(status.progress)), status.message ? " · " + status.message : ""),
      phase === "stopped"
        ? h(
            Notice,
            { kind: "note" },
            "This run was stopped or killed: no word for " + duration(live.age_s) + ". All answers until then are kept; " +
              "starting " + Haven.text.mode(status.mode) + " again goes on from there.",
          )
        : null,
      waiting.length
        ? h("p", null, "Waiting in Stash's queue: ", waiting.map((job) => job.title).join(", "), ".")
        : null,
      h(
        "div",
        { className: "haven-run-body" },
        h("div", null, h(Figures, { status, phase }), h(Current, { current: status.current })),
        status.looking_at ? h(Looking, { looking: status.looking_at }) : null,
      ),
      status.endpoints.length ? h(Endpoints, { endpoints: status.endpoints }) : null,
      h(Causes, { causes: status.causes }),
      h(Others, { others: status.others }),
    );
  }

  function Dashboard({ live }) {
    return h(React.Fragment, null, h(Tasks, null), h(RunCard, { live }));
  }

  Haven.dashboard = { Dashboard, Causes };
})();
