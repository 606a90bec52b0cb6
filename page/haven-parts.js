// Small parts that all views are made of. Texts are React's text nodes throughout; no markup is ever made of data.
(function () {
  "use strict";
  const Haven = (window.HavenVlm = window.HavenVlm || {});
  const { React } = window.PluginApi;
  const h = React.createElement;

  /** A button as Stash draws it. */
  function Button(props) {
    const { look, className, children, ...rest } = props;
    const classes = ["btn", "btn-" + (look || "secondary"), className].filter(Boolean).join(" ");
    return h("button", { type: "button", className: classes, ...rest }, children);
  }

  /** Something to tell: 'note', 'good' or 'problem'. Read out when it appears. */
  function Notice({ kind, children, onClose }) {
    return h(
      "div",
      { className: "haven-notice haven-notice-" + (kind || "note"), role: kind === "problem" ? "alert" : "status" },
      h("div", { className: "haven-notice-text" }, children),
      onClose ? h(Button, { look: "link", className: "btn-sm", "aria-label": "Dismiss", onClick: onClose }, "✕") : null,
    );
  }

  /** A state in a word, with a sign so that colour is not all that tells. */
  function Badge({ kind, children }) {
    return h("span", { className: "haven-badge haven-badge-" + kind }, children);
  }

  /** A question before something that cannot be taken back easily; the browser keeps the focus inside. */
  function Confirm({ title, children, action, look, onAnswer }) {
    const dialog = React.useRef(null);
    React.useLayoutEffect(() => {
      const element = dialog.current;
      const before = document.activeElement;
      if (!element.open) element.showModal();
      return () => {
        element.close(); // while it is open, nothing behind it can have the focus
        if (before && before.isConnected) before.focus();
      };
    }, []);
    return h(
      "dialog",
      {
        ref: dialog,
        className: "haven-dialog",
        "aria-labelledby": "haven-dialog-title",
        onCancel: (event) => {
          event.preventDefault();
          onAnswer(false);
        },
        onKeyDown: (event) => event.stopPropagation(),
      },
      h("h4", { id: "haven-dialog-title" }, title),
      h("p", null, children),
      h(
        "div",
        { className: "haven-dialog-buttons" },
        h(Button, { onClick: () => onAnswer(false) }, "Cancel"),
        h(Button, { look: look || "danger", onClick: () => onAnswer(true) }, action),
      ),
    );
  }

  /** Our mistakes stay ours: what breaks in here must not take Stash's page along. */
  class Guard extends React.Component {
    constructor(props) {
      super(props);
      this.state = { error: null };
    }

    static getDerivedStateFromError(error) {
      return { error };
    }

    render() {
      if (!this.state.error) return this.props.children;
      return h(
        Notice,
        { kind: "problem" },
        "This part of the page failed: ",
        Haven.text.text(this.state.error.message) || "no reason given",
        ". Reload the page; if it stays, please report it.",
      );
    }
  }

  /** Do something that takes a while: [busy, error, start(work), forget()]. Answers after leaving are dropped. */
  function useWork() {
    const [state, setState] = React.useState({ busy: false, error: "" });
    const here = React.useRef(true);
    React.useEffect(() => {
      here.current = true;
      return () => {
        here.current = false;
      };
    }, []);
    const start = React.useCallback(async (work) => {
      setState({ busy: true, error: "" });
      let error = "";
      let result;
      try {
        result = await work();
      } catch (failure) {
        error = failure.message || String(failure);
      }
      if (here.current) setState({ busy: false, error });
      return error ? undefined : result;
    }, []);
    const forget = React.useCallback(() => setState({ busy: false, error: "" }), []);
    return [state.busy, state.error, start, forget];
  }

  Haven.parts = { Button, Notice, Badge, Confirm, Guard, useWork };
})();
