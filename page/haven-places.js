// Where the connector shows inside Stash: its page, links to it, the scene's tab, actions on selections.
(function () {
  "use strict";
  const Haven = (window.HavenVlm = window.HavenVlm || {});
  const { React, libraries, patch, register, hooks } = window.PluginApi;
  const h = React.createElement;
  const { plural } = Haven.text;
  const { Button, Guard, Notice, useWork } = Haven.parts;
  const NAME = "A Haven VLM Connector";
  const TAB = "haven-vlm-panel";

  /** Patch of a container: ours behind what is there. */
  function behind(point, element) {
    patch.before(point, (props) => [{ ...props, children: h(React.Fragment, null, props.children, element(props)) }]);
  }

  register.route(Haven.page.PATH, Haven.page.Page);

  // ---- links ----

  /** A timeline with spans: drawn by us, so that no icon has to be there in every version. */
  function Sign() {
    return h(
      "svg",
      { className: "svg-inline--fa fa-icon", viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": true, focusable: "false" },
      h("path", { fill: "currentColor", d: "M1 2h8v3H1zM5 6.5h10v3H5zM3 11h7v3H3zM12 11h3v3h-3z" }),
    );
  }

  function NavigationLink() {
    return h(
      libraries.ReactRouterDOM.NavLink,
      { className: "nav-utility", exact: true, to: Haven.page.PATH },
      h("button", { type: "button", className: "minimal d-flex align-items-center h-100 btn btn-primary", title: NAME, "aria-label": NAME }, h(Sign, null)),
    );
  }

  behind("MainNavBar.UtilityItems", () => h(NavigationLink, { key: "haven-vlm" }));

  function ToolsEntry() {
    return h(
      "div",
      { className: "setting", "data-haven-tools": "" },
      h("div", null, h("h3", null, h(libraries.ReactRouterDOM.Link, { to: Haven.page.PATH }, h(Button, { look: "primary" }, NAME)))),
      h("div", null),
    );
  }

  /** Since 0.29 the section is there twice, once for Stash's own tools and once for those of scenes: ours is in the last. */
  const hosts = new Set();
  const redraws = new Set();

  function ToolsOnce() {
    const [, renew] = React.useState({});
    const me = React.useRef({});
    React.useLayoutEffect(() => {
      hosts.add(me.current);
      redraws.add(renew);
      redraws.forEach((one) => one({}));
      return () => {
        hosts.delete(me.current);
        redraws.delete(renew);
        redraws.forEach((one) => one({}));
      };
    }, []);
    return Array.from(hosts).pop() === me.current ? h(ToolsEntry, null) : null;
  }

  behind("SettingsToolsSection", () => h(ToolsOnce, { key: "haven-vlm" }));

  // ---- the scene's page ----

  function stashVideo() {
    return document.querySelector("#VideoJsPlayer video, video#VideoJsPlayer");
  }

  behind("ScenePage.Tabs", () => {
    const { Nav } = libraries.Bootstrap;
    return h(Nav.Item, { key: "haven-vlm" }, h(Nav.Link, { eventKey: TAB }, "VLM"));
  });

  behind("ScenePage.TabContent", (props) => {
    const { Tab } = libraries.Bootstrap;
    return h(
      Tab.Pane,
      { key: "haven-vlm", eventKey: TAB, mountOnEnter: true },
      h(Guard, null, h(Haven.review.Review, { key: props.scene.id, id: String(props.scene.id), seek: props.setTimestamp, video: stashVideo })),
    );
  });

  // ---- the image's page ----

  function TagImage({ id }) {
    const [busy, error, start] = useWork();
    const [said, setSaid] = React.useState(false);
    const run = async () => setSaid((await start(() => Haven.stash.runTask("tag_images", { ids: [id] }))) !== undefined);
    return h(
      "div",
      { className: "haven-image-action" },
      h(Button, { className: "btn-sm", disabled: busy, "data-tag-now": id, onClick: run }, "Tag this image now"),
      error ? h(Notice, { kind: "problem" }, error) : null,
      said ? h(Notice, { kind: "good" }, "Put into Stash's queue.") : null,
    );
  }

  patch.after("ImageDetailPanel", (props, _, result) =>
    h(React.Fragment, null, result, h(Guard, null, h(TagImage, { key: props.image.id, id: String(props.image.id) }))),
  );

  // ---- selections in lists (Stash 0.30 and newer) ----

  /** Toast of Stash for what happens behind a menu entry. */
  async function tagSelected(Toast, mode, ids, one) {
    try {
      if (!ids.length) throw new Error("Nothing selected that can be seen here: switch to the grid of cards to tag what is selected.");
      await Haven.stash.runTask(mode, { ids });
      Toast.success(plural(ids.length, one) + " put into Stash's queue for tagging.");
    } catch (error) {
      Toast.error(error.message);
    }
  }

  // The list of scenes tells its actions that something is selected, not what: the cards tell it.
  const selectedScenes = new Set();

  function Selected({ id, selected }) {
    React.useEffect(() => {
      if (!selected) return undefined;
      selectedScenes.add(id);
      return () => {
        selectedScenes.delete(id);
      };
    }, [id, selected]);
    return null;
  }

  patch.after("SceneCard", (props, _, result) =>
    h(React.Fragment, null, result, h(Selected, { id: String(props.scene.id), selected: Boolean(props.selected) })),
  );

  // `before` runs as part of the component it patches, so hooks may be used; `instead` would make a new component of
  // it at every drawing as soon as a second plugin does the same.
  patch.before("SceneListOperations", (props) => {
    const Toast = hooks.useToast();
    const mine = {
      text: "Tag with VLM now",
      onClick: () => tagSelected(Toast, "tag_videos", Array.from(selectedScenes), "scene"),
      isDisplayed: () => props.hasSelection,
    };
    return [{ ...props, operations: [mine, ...(props.operations || [])] }];
  });

  patch.before("ImageList", (props) => {
    const Toast = hooks.useToast();
    const mine = {
      text: "Tag with VLM now",
      onClick: (_result, _filter, ids) => tagSelected(Toast, "tag_images", Array.from(ids, String), "image"),
      isDisplayed: (_result, _filter, ids) => ids.size > 0,
    };
    return [{ ...props, extraOperations: [mine, ...(props.extraOperations || [])] }];
  });
})();
