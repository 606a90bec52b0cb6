// The page at /plugins/ahavenvlmconnector: views in tabs, the scene to review and its player.
(function () {
  "use strict";
  const Haven = (window.HavenVlm = window.HavenVlm || {});
  const { React, libraries } = window.PluginApi;
  const h = React.createElement;
  const { text, list, number, clock, plural } = Haven.text;
  const { Button, Notice, Guard, useWork } = Haven.parts;
  const PATH = "/plugins/" + Haven.stash.PLUGIN;
  const SEARCH_PAUSE_MS = 300;

  /** Words to find a scene by; the last changed scenes without any. */
  function Chooser({ onChoose }) {
    const [words, setWords] = React.useState("");
    const [found, setFound] = React.useState(null);
    const [, error, start] = useWork();
    const newest = React.useRef(0);
    React.useEffect(() => {
      newest.current += 1;
      const mine = newest.current;
      const timer = setTimeout(async () => {
        const reply = await start(() => Haven.stash.scenes(words));
        if (reply && mine === newest.current) setFound(reply);
      }, SEARCH_PAUSE_MS);
      return () => clearTimeout(timer);
    }, [words]);
    const title = (scene) => text(scene.title) || (scene.files[0] ? text(scene.files[0].basename) : "") || "Scene " + scene.id;
    return h(
      "div",
      { className: "haven-chooser" },
      h("input", {
        className: "form-control",
        type: "search",
        value: words,
        placeholder: "Find a scene …",
        "aria-label": "Find a scene",
        onChange: (event) => setWords(event.target.value),
        onKeyDown: (event) => event.stopPropagation(),
      }),
      error ? h(Notice, { kind: "problem" }, error) : null,
      found
        ? h(
            "ul",
            { className: "haven-scenes", "aria-label": "Scenes" },
            list(found.scenes, 12).map((scene) =>
              h(
                "li",
                { key: scene.id },
                h(Button, { look: "link", onClick: () => onChoose(scene.id) }, title(scene)),
                h("span", { className: "haven-quiet" }, scene.files[0] ? clock(number(scene.files[0].duration)) + " · " : "", plural(scene.scene_markers.length, "marker")),
              ),
            ),
          )
        : h("p", null, "Loading …"),
      found && !found.scenes.length ? h("p", null, "No scene fits.") : null,
    );
  }

  /** A scene under review beside its video. */
  function ReviewView({ id, onChoose }) {
    const player = React.useRef(null);
    const video = React.useCallback(() => player.current, []);
    const seek = React.useCallback((t) => {
      if (player.current) player.current.currentTime = t;
    }, []);
    if (!/^\d+$/.test(id)) return h(Chooser, { onChoose });
    const address = Haven.stash.base() + "scene/" + id;
    return h(
      React.Fragment,
      null,
      h(
        "div",
        { className: "haven-buttons" },
        h(Button, { className: "btn-sm", onClick: () => onChoose("") }, "Other scene"),
        h(libraries.ReactRouterDOM.Link, { to: "/scenes/" + id }, "Open the scene in Stash"),
      ),
      h("video", {
        key: "video" + id, ref: player, className: "haven-video", controls: true, preload: "metadata", src: address + "/stream", poster: address + "/screenshot",
        "aria-label": "The scene",
      }),
      h(Haven.review.Review, { key: "review" + id, id, seek, video }),
    );
  }

  const VIEWS = [
    ["now", "Now"],
    ["runs", "Past runs"],
    ["review", "Review"],
    ["check", "Check"],
  ];

  function Tabs({ view, onView }) {
    const keys = (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      const at = (VIEWS.findIndex(([name]) => name === view) + by + VIEWS.length) % VIEWS.length;
      onView(VIEWS[at][0]);
      event.currentTarget.children[at].firstChild.focus();
    };
    return h(
      "ul",
      { className: "nav nav-tabs haven-tabs", role: "tablist", "aria-label": "Views", onKeyDown: keys },
      VIEWS.map(([name, title]) =>
        h(
          "li",
          { key: name, className: "nav-item", role: "presentation" },
          h(
            "button",
            {
              type: "button",
              id: "haven-tab-" + name,
              className: "nav-link btn-link" + (name === view ? " active" : ""),
              role: "tab",
              "aria-selected": name === view,
              "aria-controls": "haven-view",
              tabIndex: name === view ? 0 : -1,
              onClick: () => onView(name),
            },
            title,
          ),
        ),
      ),
    );
  }

  /** What is seen is in the address, so that it survives a reload and can be linked to. */
  function Page() {
    const history = libraries.ReactRouterDOM.useHistory();
    const location = libraries.ReactRouterDOM.useLocation();
    const query = new URLSearchParams(location.search);
    const asked = query.get("view");
    const view = VIEWS.some(([name]) => name === asked) ? asked : "now";
    const live = Haven.live.useLive();
    const go = (name, scene) => {
      const next = new URLSearchParams({ view: name });
      if (scene) next.set("scene", scene);
      history.push(PATH + "?" + next);
    };
    const shown = {
      now: () => h(Haven.dashboard.Dashboard, { live }),
      runs: () => h(Haven.records.Runs, { live }),
      review: () => h(ReviewView, { id: query.get("scene") || "", onChoose: (id) => go("review", id) }),
      check: () => h(Haven.records.Check, { live }),
    }[view];
    return h(
      "div",
      { className: "haven-page" },
      h("h2", null, "A Haven VLM Connector"),
      h(Tabs, { view, onView: (name) => go(name) }),
      live.error ? h(Notice, { kind: "problem" }, live.error, " Trying again.") : null,
      h("div", { id: "haven-view", role: "tabpanel", "aria-labelledby": "haven-tab-" + view }, h(Guard, { key: view }, shown())),
    );
  }

  Haven.page = { Page, PATH };
})();
