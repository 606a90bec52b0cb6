// Review of one scene: its timeline, the chosen span, what was decided, and saving it.
(function () {
  "use strict";
  const Haven = (window.HavenVlm = window.HavenVlm || {});
  const { React } = window.PluginApi;
  const h = React.createElement;
  const { text, list, clock, readClock, percent, plural } = Haven.text;
  const { Button, Notice, Badge, Guard, useWork } = Haven.parts;
  const model = Haven.model;
  const DRAFTS_KEPT = 5;

  const drafts = new Map(); // scene → {scene, edits}: what was decided and not saved outlives leaving the page's part

  function keepDraft(id, scene, edits) {
    drafts.delete(id);
    if (!model.howMany(edits)) return;
    drafts.set(id, { scene, edits });
    while (drafts.size > DRAFTS_KEPT) drafts.delete(drafts.keys().next().value);
  }

  window.addEventListener("beforeunload", (event) => {
    if (!drafts.size) return;
    event.preventDefault();
    event.returnValue = "";
  });

  /** A moment as text to type over; taken at Enter and on leaving. */
  function Moment({ label, value, onChange }) {
    const [typed, setTyped] = React.useState(clock(value, true));
    const [wrong, setWrong] = React.useState(false);
    React.useEffect(() => {
      setTyped(clock(value, true));
      setWrong(false);
    }, [value]);
    const take = () => {
      if (typed === clock(value, true)) return;
      const read = readClock(typed);
      setWrong(read === null);
      if (read !== null) onChange(read);
    };
    return h(
      "label",
      { className: "haven-moment" },
      label,
      h("input", {
        className: "form-control form-control-sm" + (wrong ? " is-invalid" : ""),
        value: typed,
        inputMode: "decimal",
        "aria-invalid": wrong,
        onChange: (event) => setTyped(event.target.value),
        onBlur: take,
        onKeyDown: (event) => {
          event.stopPropagation(); // Stash's own keys are letters
          if (event.key === "Enter") take();
        },
      }),
      wrong ? h("span", { role: "alert", className: "haven-quiet" }, "Write 75.5 or 1:15.5") : null,
    );
  }

  /** The chosen span: what it is, its ends, and what to do with it. The place is kept while nothing is chosen. */
  function Inspector({ scene, lane, span, onDecide, onSeek }) {
    const picture = Haven.thumbnails.usePictures(scene.id, span ? [span.start, span.end] : []);
    if (!span) {
      return h(
        "div",
        { className: "haven-inspector", "data-inspector": "" },
        h("p", { className: "haven-quiet" }, "Choose a span to see it, confirm or reject it, or move its ends."),
      );
    }
    const key = span.key;
    const move = (ends, edge) => onDecide({ do: "move", key, duration: scene.duration, start: span.start, end: span.end, ...ends, edge });
    return h(
      "div",
      { className: "haven-inspector", role: "region", "aria-label": "The chosen span", "data-inspector": key },
      h(
        "div",
        { className: "haven-inspector-head" },
        h("strong", null, lane.name),
        h(Badge, { kind: "quiet" }, Haven.timeline.WORDS[span.state]),
        span.confidence === null ? null : h("span", null, "confidence " + percent(span.confidence)),
        span.pending ? h(Badge, { kind: "warn" }, Haven.timeline.PENDING[span.pending]) : null,
      ),
      h(
        "div",
        { className: "haven-inspector-ends" },
        ["start", "end"].map((edge) =>
          h(
            "div",
            { key: key + edge, className: "haven-end" },
            h(Haven.thumbnails.Picture, { image: picture(span[edge]), alt: "" }),
            h(Moment, { label: edge === "start" ? "Start" : "End", value: span[edge], onChange: (t) => move({ [edge]: t }, edge) }),
            h(Button, { className: "btn-sm", onClick: () => onSeek(span[edge]) }, edge === "start" ? "Go to start" : "Go to end"),
          ),
        ),
      ),
      h(
        "div",
        { className: "haven-buttons" },
        h(Button, { look: "primary", disabled: span.pending === "add", onClick: () => onDecide({ do: "confirm", key }) }, "Confirm"),
        h(Button, { look: "danger", onClick: () => onDecide({ do: "reject", key }) }, "Reject"),
        h(Button, { disabled: !span.pending, onClick: () => onDecide({ do: "forget", key }) }, "Take back"),
      ),
    );
  }

  /** A new span: which tag, and it begins where the player is. */
  function Add({ lanes, onAdd }) {
    const [tag, setTag] = React.useState("");
    const add = () => {
      if (!tag.trim()) return;
      onAdd(tag.trim());
      setTag("");
    };
    return h(
      "div",
      { className: "haven-add" },
      h("input", {
        className: "form-control form-control-sm",
        list: "haven-tags",
        value: tag,
        placeholder: "Tag of a new span",
        "aria-label": "Tag of a new span",
        onChange: (event) => setTag(event.target.value),
        onKeyDown: (event) => {
          event.stopPropagation();
          if (event.key === "Enter") add();
        },
      }),
      h("datalist", { id: "haven-tags" }, lanes.slice(0, 500).map((lane) => h("option", { key: lane.at, value: lane.tag }))),
      h(Button, { className: "btn-sm", disabled: !tag.trim(), onClick: add }, "Add here"),
    );
  }

  /** Follows a task until it has left Stash's queue. */
  function Following({ job, since, onEnd }) {
    const live = Haven.live.useLive();
    const found = live.jobs.find((one) => one.id === job);
    const over = live.jobs_at > since && !found;
    React.useEffect(() => {
      if (over) onEnd();
    }, [over]);
    const running = found && found.status === "RUNNING" && live.status && Haven.live.UNFINISHED.includes(Haven.live.phase(live));
    return h(
      Notice,
      null,
      running ? "Tagging: " + percent(live.status.progress) + (live.status.message ? " · " + live.status.message : "") : "Tagging waits in Stash's queue.",
    );
  }

  /** Puts this one scene into Stash's queue. */
  function TagNow({ id, onEnd }) {
    const [busy, error, start] = useWork();
    const [job, setJob] = React.useState(null);
    const run = async () => {
      const since = performance.now();
      const number = await start(() => Haven.stash.runTask("tag_videos", { ids: [id] }));
      if (number !== undefined) setJob({ id: number, since: Math.max(since, performance.now()) });
    };
    const ended = () => {
      setJob(null);
      onEnd();
    };
    return h(
      React.Fragment,
      null,
      h(Button, { className: "btn-sm", disabled: busy || job !== null, "data-tag-now": id, onClick: run }, "Tag this scene now"),
      error ? h(Notice, { kind: "problem" }, error) : null,
      job ? h(Following, { job: job.id, since: job.since, onEnd: ended }) : null,
    );
  }

  function Legend() {
    return h(
      "div",
      { className: "haven-legend haven-quiet" },
      h("div", null, "Spans: ", model.STATES.map((state) => h("span", { key: state }, Haven.timeline.SIGNS[state] + " " + Haven.timeline.WORDS[state]))),
      h("div", null, "Frames: ", ["asked", "inherited", "blank", "failed"].map((state) => h("span", { key: state }, h("i", { className: "haven-key haven-sample-" + state }), " " + state))),
      h(
        "details",
        null,
        h("summary", null, "Keys"),
        "On a span: arrow keys go to the next one and to other tags, Enter chooses it and goes there, C confirms, Delete rejects, + and − zoom. " +
          "On an end: arrow keys move it by 0.1 s, with Shift by 1 s, Page Up and Page Down by 10 s, Escape takes it back.",
      ),
    );
  }

  /** All of it, once the scene is loaded. */
  function Loaded({ first, onReload, seek, video }) {
    const [scene] = React.useState(first.scene);
    const [edits, setEdits] = React.useState(first.edits);
    const [selected, setSelected] = React.useState("");
    const [busy, error, start, forget] = useWork();
    const [fresh, setFresh] = React.useState(false);
    const counter = React.useRef(edits.added.length + edits.past.length);
    const lanes = React.useMemo(() => model.withEdits(scene.lanes, edits), [scene, edits]);
    const lane = lanes.find((one) => one.spans.some((span) => span.key === selected));
    const span = lane && lane.spans.find((one) => one.key === selected);
    const pending = model.howMany(edits);
    React.useEffect(() => keepDraft(scene.id, scene, edits), [scene, edits]);

    const decide = React.useCallback((action) => setEdits((before) => model.decide(before, action)), []);
    const add = (tag) => {
      const player = video();
      const at = player && player.currentTime ? player.currentTime : 0;
      counter.current += 1;
      const key = "new." + counter.current;
      decide({ do: "add", key, tag, start: at, end: at + 2, duration: scene.duration });
      setSelected(key);
    };
    const save = async () => {
      const reply = await start(() => Haven.stash.operation("review", { id: scene.id, decisions: model.decisions(scene.lanes, edits) }));
      if (!reply) return;
      drafts.delete(scene.id);
      setEdits(model.NOTHING);
      Haven.stash.refreshStash();
      onReload([plural(reply.done, "decision") + " saved.", ...list(reply.messages, 50).map(text)]);
    };
    const tagged = () => {
      Haven.stash.refreshStash();
      if (pending) setFresh(true);
      else onReload([]);
    };
    return h(
      "div",
      { className: "haven-review" },
      h(
        "div",
        { className: "haven-buttons haven-review-bar" },
        h(Button, { look: "primary", className: "btn-sm", disabled: !pending || busy, "data-save": pending, onClick: save }, pending ? "Save " + plural(pending, "decision") : "Save"),
        h(Button, { className: "btn-sm", disabled: !edits.past.length || busy, onClick: () => decide({ do: "back" }) }, "Undo"),
        h(Button, { className: "btn-sm", disabled: !pending || busy, onClick: () => decide({ do: "clear" }) }, "Discard all"),
        h(Add, { lanes: scene.lanes, onAdd: add }),
        h(TagNow, { id: scene.id, onEnd: tagged }),
      ),
      error ? h(Notice, { kind: "problem", onClose: forget }, "Not saved: ", error) : null,
      fresh
        ? h(
            Notice,
            { kind: "note" },
            "There are new results. Save your decisions, or discard them, to see them. ",
            h(Button, { className: "btn-sm", onClick: () => { drafts.delete(scene.id); onReload([]); } }, "Discard and reload"),
          )
        : null,
      lanes.length || scene.samples.length
        ? h(Haven.timeline.Timeline, { scene, lanes, selected, onSelect: setSelected, onSeek: seek, onDecide: decide, video })
        : h("p", null, "Nothing is known about this scene yet."),
      lanes.length ? h(Inspector, { scene, lane, span, onDecide: decide, onSeek: seek }) : null,
      h(Legend, null),
    );
  }

  /** Review of the scene with this id. `seek(t)` moves the player, `video()` is its element or null. */
  function Review({ id, seek, video }) {
    const [loaded, setLoaded] = React.useState(() => drafts.get(id) || null);
    const [busy, error, start] = useWork();
    const [said, setSaid] = React.useState([]);
    const load = async (messages) => {
      const reply = await start(() => Haven.stash.operation("scene", { id }));
      if (!reply) return;
      setLoaded({ scene: { ...model.readScene(reply), id }, edits: model.NOTHING });
      setSaid(messages);
    };
    React.useEffect(() => {
      if (!loaded) load([]);
    }, []);
    const version = React.useRef(0);
    const seen = React.useRef(null);
    if (seen.current !== loaded) {
      seen.current = loaded;
      version.current += 1;
    }
    return h(
      Guard,
      null,
      error
        ? h(Notice, { kind: "problem" }, error, " ", h(Button, { className: "btn-sm", onClick: () => load([]) }, "Try again"))
        : null,
      said.length
        ? h(Notice, { kind: said.length > 1 ? "note" : "good", onClose: () => setSaid([]) }, said.map((line, i) => h("div", { key: i }, line)))
        : null,
      loaded
        ? h(Loaded, { key: version.current, first: loaded, onReload: load, seek, video })
        : h("p", { role: "status" }, busy ? "Loading …" : ""),
    );
  }

  Haven.review = { Review };
})();
