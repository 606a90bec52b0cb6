// What Stash offers plugins in the browser, as far as this one uses it, and pages to try it on: `window.PluginApi`,
// the patch points, a router, and small pages for a scene, an image, lists of both, and the tools.
(function () {
  "use strict";
  const { React, ReactDOM } = window.StandInReact;
  const h = React.createElement;
  const { useState, useContext, useMemo } = React;

  // ---- patches ----

  const patches = { before: {}, after: {} };
  const components = {};

  function patched(name, component) {
    const result = (...args) => {
      let given = args;
      for (const fn of patches.before[name] || []) {
        given = fn(...given);
        if (!Array.isArray(given)) throw new Error("before(" + name + ") must return an array of arguments");
      }
      let drawn = component(...given);
      for (const fn of patches.after[name] || []) drawn = fn(...given, ...(given.length < 2 ? [undefined] : []), drawn);
      return drawn;
    };
    components[name] = result;
    return result;
  }

  function container(name) {
    return patched(name, (props) => h(React.Fragment, null, props.children));
  }

  function adds(list) {
    return (name, fn) => {
      (list[name] = list[name] || []).push(fn);
    };
  }

  // ---- router ----

  const Place = React.createContext(null);

  function Router({ children }) {
    const read = () => ({ pathname: window.location.pathname, search: window.location.search });
    const [location, setLocation] = useState(read);
    const history = useMemo(() => {
      window.addEventListener("popstate", () => setLocation(read()));
      return {
        push: (to) => {
          window.history.pushState(null, "", to);
          setLocation(read());
        },
      };
    }, []);
    return h(Place.Provider, { value: { location, history } }, children);
  }

  function Link({ to, children, exact, activeClassName, ...rest }) {
    const { history } = useContext(Place);
    const go = (event) => {
      event.preventDefault();
      history.push(to);
    };
    return h("a", { href: to, onClick: go, ...rest }, children);
  }

  function Route({ path, component }) {
    const { location } = useContext(Place);
    return location.pathname === path ? h(component, null) : null;
  }

  // ---- Bootstrap's parts ----

  const Chosen = React.createContext(null);

  function TabContainer({ activeKey, onSelect, children }) {
    return h(Chosen.Provider, { value: { activeKey, onSelect } }, children);
  }

  function NavLink({ eventKey, children }) {
    const { activeKey, onSelect } = useContext(Chosen);
    const classes = "nav-link" + (activeKey === eventKey ? " active" : "");
    const go = (event) => {
      event.preventDefault();
      onSelect(eventKey);
    };
    return h("a", { href: "#", role: "tab", className: classes, "data-rb-event-key": eventKey, onClick: go }, children);
  }

  function TabPane({ eventKey, mountOnEnter, children }) {
    const { activeKey } = useContext(Chosen);
    const [entered, setEntered] = useState(false);
    const active = activeKey === eventKey;
    React.useEffect(() => {
      if (active) setEntered(true);
    }, [active]);
    if (mountOnEnter && !entered && !active) return null;
    return h("div", { className: "tab-pane" + (active ? " active" : ""), role: "tabpanel" }, children);
  }

  // ---- toasts ----

  const Toasts = React.createContext(null);

  function ToastProvider({ children }) {
    const [toast, setToast] = useState(null);
    const value = useMemo(
      () => ({
        success: (text) => setToast(["success", text]),
        error: (error) => setToast(["danger", error.message || String(error)]),
      }),
      [],
    );
    return h(
      Toasts.Provider,
      { value },
      children,
      toast ? h("div", { className: "toast " + toast[0], role: "alert" }, toast[1]) : null,
    );
  }

  // ---- pages ----

  async function ask(query, variables) {
    const response = await fetch("/graphql", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ query, variables }),
    });
    return (await response.json()).data;
  }

  function useAnswer(query, variables) {
    const [data, setData] = useState(null);
    React.useEffect(() => {
      ask(query, variables).then(setData);
    }, [query, JSON.stringify(variables)]);
    return data;
  }

  const Tabs = container("ScenePage.Tabs");
  const TabContent = container("ScenePage.TabContent");
  const ToolsSection = container("SettingsToolsSection");
  const UtilityItems = container("MainNavBar.UtilityItems");
  const PluginRoutes = container("PluginRoutes");

  function ScenePage({ id }) {
    const data = useAnswer("query($id: ID) { findScene(id: $id) { id title files { duration } } }", { id });
    const [tab, setTab] = useState("scene-details-panel");
    const player = React.useRef(null);
    if (!data || !data.findScene) return h("p", null, "Loading");
    const seek = (t) => {
      player.current.currentTime = t;
      player.current.dataset.asked = String(t);
    };
    const props = { scene: data.findScene, setTimestamp: seek };
    return h(
      "div",
      { className: "scene-page" },
      h("div", { id: "VideoJsPlayer" }, h("video", { ref: player, src: "/scene/" + id + "/stream", preload: "none" })),
      h(
        TabContainer,
        { activeKey: tab, onSelect: setTab },
        h("div", { className: "nav nav-tabs" }, h(Tabs, props, h("div", { className: "nav-item" }, h(NavLink, { eventKey: "scene-details-panel" }, "Details")))),
        h("div", { className: "tab-content" }, h(TabContent, props, h(TabPane, { eventKey: "scene-details-panel" }, "Details of ", data.findScene.title))),
      ),
    );
  }

  const ImageDetailPanel = patched("ImageDetailPanel", ({ image }) => h("div", null, "Image ", image.title));

  function ImagePage({ id }) {
    const data = useAnswer("query($id: ID) { findImage(id: $id) { id title } }", { id });
    return data && data.findImage ? h(ImageDetailPanel, { image: data.findImage }) : h("p", null, "Loading");
  }

  const SceneCard = patched("SceneCard", ({ scene, selected, onSelectedChanged }) =>
    h(
      "label",
      { className: "scene-card", "data-scene": scene.id },
      h("input", { type: "checkbox", checked: selected, onChange: () => onSelectedChanged(!selected) }),
      scene.title,
    ),
  );

  function Operations({ operations }) {
    return h(
      "div",
      { className: "operations" },
      operations.map((one) =>
        !one.isDisplayed || one.isDisplayed() ? h("button", { key: one.text, type: "button", onClick: () => one.onClick() }, one.text) : null,
      ),
    );
  }

  const SceneListOperations = patched("SceneListOperations", Operations);

  function toggled(chosen, id, on) {
    const next = new Set(chosen);
    (on ? next.add : next.delete).call(next, id);
    return next;
  }

  function ScenesPage() {
    const data = useAnswer("query { findScenes { scenes { id title } } }", {});
    const [chosen, setChosen] = useState(new Set());
    if (!data) return h("p", null, "Loading");
    return h(
      "div",
      null,
      h(SceneListOperations, { hasSelection: chosen.size > 0, operations: [] }),
      data.findScenes.scenes.map((scene) =>
        h(SceneCard, {
          key: scene.id, scene, selected: chosen.has(scene.id), onSelectedChanged: (on) => setChosen(toggled(chosen, scene.id, on)),
        }),
      ),
    );
  }

  const ImageList = patched("ImageList", ({ extraOperations = [] }) => {
    const data = useAnswer("query { findImages { images { id title } } }", {});
    const [chosen, setChosen] = useState(new Set());
    if (!data) return h("p", null, "Loading");
    const operations = extraOperations.map((one) => ({
      text: one.text,
      onClick: () => one.onClick({ data }, {}, chosen),
      isDisplayed: () => one.isDisplayed({ data }, {}, chosen),
    }));
    return h(
      "div",
      null,
      h(Operations, { operations }),
      data.findImages.images.map((image) =>
        h(
          "label",
          { key: image.id, className: "image-card" },
          h("input", { type: "checkbox", checked: chosen.has(image.id), onChange: (event) => setChosen(toggled(chosen, image.id, event.target.checked)) }),
          image.title,
        ),
      ),
    );
  });

  function ToolsPage() {
    return h("div", null, h(ToolsSection, null, h("div", { className: "setting" }, "Playground")), h(ToolsSection, null, h("div", { className: "setting" }, "Parser")));
  }

  function Pages() {
    const { location } = useContext(Place);
    const [, kind, id] = location.pathname.split("/");
    const known = {
      scenes: () => (id ? h(ScenePage, { key: id, id }) : h(ScenesPage, null)),
      images: () => (id ? h(ImagePage, { key: id, id }) : h(ImageList, null)),
      settings: () => h(ToolsPage, null),
    };
    return known[kind] ? known[kind]() : null;
  }

  function App() {
    return h(
      Router,
      null,
      h(
        ToastProvider,
        null,
        h("nav", { className: "top-nav" }, h(Link, { to: "/" }, "Stash"), h(UtilityItems, null, h("span", null, "Help"))),
        h("main", { className: "main" }, h(Pages, null), h(PluginRoutes, null)),
      ),
    );
  }

  window.PluginApi = {
    React,
    ReactDOM,
    libraries: {
      ReactRouterDOM: { Link, NavLink: Link, useHistory: () => useContext(Place).history, useLocation: () => useContext(Place).location },
      Bootstrap: {
        Nav: { Item: ({ children }) => h("div", { className: "nav-item" }, children), Link: NavLink },
        Tab: { Pane: TabPane },
      },
    },
    register: {
      route: (path, component) => {
        if (path.startsWith("/plugin/")) throw new Error("the server owns " + path);
        adds(patches.before)("PluginRoutes", (props) => [
          { children: h(React.Fragment, null, props.children, h(Route, { key: path, path, component })) },
        ]);
      },
    },
    patch: { before: adds(patches.before), after: adds(patches.after) },
    hooks: { useToast: () => useContext(Toasts) },
    components,
    utils: { StashService: { getClient: () => ({ refetchQueries: () => undefined }) } },
  };

  async function start() {
    const data = await ask("query { plugins { id enabled paths { javascript css } } }", {});
    const enabled = data.plugins.filter((plugin) => plugin.enabled);
    for (const address of enabled.flatMap((plugin) => plugin.paths.css || [])) {
      document.head.appendChild(Object.assign(document.createElement("link"), { rel: "stylesheet", href: address }));
    }
    for (const address of enabled.flatMap((plugin) => plugin.paths.javascript || [])) {
      await new Promise((done) => {
        const script = Object.assign(document.createElement("script"), { src: address, onload: done, onerror: done });
        document.body.appendChild(script);
      });
    }
    ReactDOM.render(h(App, null), document.getElementById("root"));
  }

  start();
})();
