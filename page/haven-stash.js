// What the page asks of Stash: GraphQL, the plugin's operations, tasks and jobs, and the files a run writes.
(function () {
  "use strict";
  const Haven = (window.HavenVlm = window.HavenVlm || {});
  const PLUGIN = "ahavenvlmconnector";
  const PATIENCE_MS = 60000;
  const FILE_PATIENCE_MS = 5000;
  const QUEUED_AS = "Running plugin task: ";
  const OURS = "Haven VLM: ";

  /** Address of Stash, with a slash at the end; Stash may live below a path. */
  function base() {
    const element = document.querySelector("base");
    return element ? element.href : new URL("/", window.location.href).href;
  }

  /** `fetch` that ends: a server that accepts and then says nothing is an error, too. */
  async function fetchWithin(address, options, patience_ms) {
    const controller = new AbortController();
    const timer = setTimeout(() => controller.abort(), patience_ms);
    try {
      const response = await fetch(address, { credentials: "same-origin", signal: controller.signal, ...options });
      return { response, body: await response.text() };
    } catch (error) {
      throw new Error(controller.signal.aborted ? "Stash does not answer." : "Stash cannot be reached.");
    } finally {
      clearTimeout(timer);
    }
  }

  /** Data of a GraphQL request; throws an Error whose message is a sentence. */
  async function graphql(query, variables) {
    const { response, body } = await fetchWithin(
      base() + "graphql",
      {
        method: "POST",
        headers: { "Content-Type": "application/json", Accept: "application/json" },
        body: JSON.stringify({ query, variables: variables || {} }),
      },
      PATIENCE_MS,
    );
    if (response.status === 401) throw new Error("Stash wants you to log in again: reload this page.");
    let reply;
    try {
      reply = JSON.parse(body);
    } catch (error) {
      throw new Error("Stash answered with HTTP " + response.status + " and something that is no JSON.");
    }
    if (reply.errors && reply.errors.length) {
      throw new Error(reply.errors.map((one) => one.message || "an error without a message").join("; "));
    }
    return reply.data;
  }

  /** Reply of one of the plugin's operations, see docs/page.md; its `error` is thrown. */
  async function operation(op, args) {
    const data = await graphql(
      "mutation HavenOperation($id: ID!, $args: Map) { runPluginOperation(plugin_id: $id, args: $args) }",
      { id: PLUGIN, args: { mode: "page", op, ...args } },
    );
    let reply = data.runPluginOperation;
    if (typeof reply === "string") {
      try {
        reply = JSON.parse(reply);
      } catch (error) {
        throw new Error(reply);
      }
    }
    if (!reply || typeof reply !== "object") throw new Error("The plugin did not answer.");
    if (reply.error) throw new Error(Haven.text.text(reply.error) || "The plugin failed without saying why.");
    return reply;
  }

  /** Queue a task; returns the job's id. `args` may hold ids, run and settings. */
  async function runTask(mode, args) {
    const data = await graphql(
      "mutation HavenTask($id: ID!, $description: String, $args: Map) {" +
        " runPluginTask(plugin_id: $id, description: $description, args_map: $args) }",
      { id: PLUGIN, description: OURS + Haven.text.mode(mode), args: { mode, ...args } },
    );
    return data.runPluginTask;
  }

  /** Jobs of the queue that are ours for sure (`ours`) or may be (`named`: started on the Tasks page). */
  async function jobs() {
    const data = await graphql("query HavenJobs { jobQueue { id status description } }");
    const named = new Set(Object.values(Haven.text.MODES).map((name) => QUEUED_AS + name));
    return (data.jobQueue || [])
      .map((job) => ({
        id: job.id,
        status: job.status,
        title: job.description.startsWith(QUEUED_AS) ? job.description.slice(QUEUED_AS.length) : job.description,
        ours: job.description.startsWith(QUEUED_AS + OURS),
        named: named.has(job.description),
      }))
      .slice(0, 100);
  }

  async function stopJob(id) {
    await graphql("mutation HavenStop($id: ID!) { stopJob(job_id: $id) }", { id });
  }

  /** Scenes to choose from: by words of their title or path, the last changed first. */
  async function scenes(words) {
    const data = await graphql(
      "query HavenScenes($filter: FindFilterType) { findScenes(filter: $filter) {" +
        " count scenes { id title files { basename duration } scene_markers { id } } } }",
      { filter: { q: words, per_page: 12, page: 1, sort: "updated_at", direction: "DESC" } },
    );
    return data.findScenes;
  }

  /** Address of a file that a run writes; each part of the path is a name and nothing else. */
  function liveAddress(path) {
    const parts = String(path).split("/").filter((part) => part && part !== "." && part !== "..");
    return base() + "plugin/" + PLUGIN + "/assets/live/" + parts.map(encodeURIComponent).join("/");
  }

  /** A JSON file of `live/` and the age of the server's clock then: {data, now_ms}; data is null while there is none. */
  async function liveFile(name) {
    const { response, body } = await fetchWithin(liveAddress(name), { cache: "no-store" }, FILE_PATIENCE_MS);
    if (response.status === 401) throw new Error("Stash wants you to log in again: reload this page.");
    const said = Date.parse(response.headers.get("Date") || "");
    const now_ms = Number.isNaN(said) ? Date.now() : said;
    if (!response.ok) return { data: null, now_ms };
    try {
      const data = JSON.parse(body);
      return { data: data && typeof data === "object" ? data : null, now_ms };
    } catch (error) {
      return { data: null, now_ms };
    }
  }

  /** Markers and tags were changed behind the page's back: let Stash's own parts of it ask again. */
  function refreshStash() {
    try {
      window.PluginApi.utils.StashService.getClient().refetchQueries({ include: "active" });
    } catch (error) {
      // older or newer Stash: its lists are fresh after the next reload
    }
  }

  Haven.stash = { PLUGIN, base, operation, runTask, jobs, stopJob, scenes, liveAddress, liveFile, refreshStash };
})();
