// A small React, for the page that stands in for Stash's: the same contract for what plugins use of it, and stricter.
// It draws at once and in full, and throws where React only warns: a list without keys, an object as text, hooks in
// another order, an attribute that React does not know, a controlled field that nobody listens to.
(function () {
  "use strict";
  const Fragment = Symbol("Fragment");
  const Context = Symbol("Context");
  const VOID = new Set(["img", "input", "br", "hr", "path"]);
  const SVG = new Set(["svg", "path", "g", "rect", "line", "text", "circle"]);
  const WRONG = { class: "className", for: "htmlFor", tabindex: "tabIndex", onclick: "onClick", readonly: "readOnly", colspan: "colSpan" };
  const EVENTS = {
    onFocus: "focusin", onBlur: "focusout", onDoubleClick: "dblclick",
  };
  const UNITLESS = new Set(["opacity", "zIndex", "flex", "flexGrow", "order", "lineHeight", "fontWeight"]);
  const LIMIT = 50; // drawings caused by one change

  let current = null; // the component whose hooks are called now
  let cursor = 0;
  let queue = new Set();
  let scheduled = false;
  let drawing = false;
  let layoutEffects = [];
  let effects = [];
  let round = 0;

  function createElement(type, props, ...children) {
    if (type === undefined || type === null) throw new Error("createElement: the type is " + type);
    const { key, ref, ...rest } = props || {};
    if (children.length) rest.children = children.length === 1 ? children[0] : children;
    const many = children.length > 1;
    if (many) for (const child of children) if (child && child.$ === "element") child.placed = true;
    return { $: "element", type, key: key === undefined || key === null ? null : String(key), ref: ref || null, props: rest, many };
  }

  /** Children as a flat list of [key, child]; lists made by `map` need keys, arguments of createElement do not. */
  function flat(children, given, result, prefix) {
    if (children === null || children === undefined || typeof children === "boolean") {
      result.push([prefix, null]);
    } else if (Array.isArray(children)) {
      const seen = new Set();
      children.forEach((child, i) => {
        const element = child && child.$ === "element";
        if (element && child.key === null && !given && !child.placed) throw new Error("a child in a list has no key: " + nameOf(child.type));
        if (element && child.key !== null) {
          if (seen.has(child.key)) throw new Error("two children have the key " + child.key);
          seen.add(child.key);
        }
        flat(child, false, result, prefix + (element && child.key !== null ? ":$" + child.key : "." + i));
      });
    } else if (typeof children === "object" && children.$ !== "element") {
      throw new Error("an object is no child: {" + Object.keys(children).slice(0, 5) + "}");
    } else if (typeof children === "function" || typeof children === "symbol") {
      throw new Error("a " + typeof children + " is no child");
    } else result.push([prefix + (children.$ && children.key !== null ? ":$" + children.key : ""), children]);
    return result;
  }

  function nameOf(type) {
    return typeof type === "string" ? type : typeof type === "function" ? type.name || "a component" : String(type);
  }

  // ---- the tree: nodes {element, parent, kids: Map, dom, hooks, instance} ----

  function domOf(node) {
    if (node.dom) return [node.dom];
    return Array.from(node.kids.values()).flatMap(domOf);
  }

  /** Put a node's children in place below `host`, in order. */
  function arrange(host, wanted) {
    let spot = host.firstChild;
    for (const element of wanted) {
      if (element === spot) spot = spot.nextSibling;
      else host.insertBefore(element, spot);
    }
  }

  function hostOf(node) {
    for (let up = node; up; up = up.parent) if (up.dom) return up;
    return null;
  }

  function same(node, child) {
    if (child && child.$ === "element") return node.element && node.element.$ === "element" && node.element.type === child.type;
    return typeof child !== "object" && node.isText;
  }

  function reconcile(node, children, given) {
    const wanted = flat(children, given, [], "").filter(([, child]) => child !== null && child !== "");
    const before = node.kids;
    const after = new Map();
    for (const [key, child] of wanted) {
      let kid = before.get(key);
      if (kid && same(kid, child)) before.delete(key);
      else kid = { parent: node, kids: new Map(), dom: null, hooks: [], depth: node.depth + 1, alive: true };
      after.set(key, kid);
      kid.next = child;
    }
    for (const kid of before.values()) remove(kid, true);
    node.kids = after;
    for (const kid of after.values()) draw(kid, kid.next);
  }

  function remove(node, top) {
    node.alive = false;
    queue.delete(node);
    for (const hook of node.hooks) {
      if (hook.effect && typeof hook.cleanup === "function") {
        const cleanup = hook.cleanup;
        hook.cleanup = undefined;
        cleanup();
      }
    }
    if (node.instance && node.instance.componentWillUnmount) node.instance.componentWillUnmount();
    if (node.element && node.element.ref) setRef(node.element.ref, null);
    for (const kid of node.kids.values()) remove(kid, top && !node.dom);
    if (top && node.dom) node.dom.remove();
  }

  function setRef(ref, value) {
    if (typeof ref === "function") ref(value);
    else ref.current = value;
  }

  function draw(node, child) {
    const first = node.element === undefined;
    const past = node.element;
    node.element = child;
    if (!child || child.$ !== "element") {
      node.isText = true;
      if (first) node.dom = document.createTextNode(String(child));
      else if (node.dom.data !== String(child)) node.dom.data = String(child);
      return;
    }
    if (child.type === Fragment) reconcile(node, child.props.children, child.many);
    else if (child.type.context) {
      node.context = { of: child.type.context, value: child.props.value };
      reconcile(node, child.props.children, child.many);
    } else if (typeof child.type === "string") drawHost(node, child, first ? {} : past.props, first);
    else component(node, child);
  }

  function component(node, child) {
    const { type, props } = child;
    try {
      let result;
      if (type.prototype && type.prototype.isReactComponent) {
        if (!node.instance) {
          node.instance = new type(props);
          node.instance.setState = (change) => {
            const now = typeof change === "function" ? change(node.instance.state) : change;
            node.instance.state = { ...node.instance.state, ...now };
            schedule(node);
          };
        }
        node.instance.props = props;
        result = node.instance.render();
      } else {
        const outer = [current, cursor];
        [current, cursor] = [node, 0];
        node.due = [];
        const before = node.hooks.length;
        const firstTime = !node.drawn;
        try {
          result = type(props, undefined);
        } finally {
          if (!firstTime && cursor !== before) node.broken = nameOf(type) + " called " + cursor + " hooks after " + before;
          [current, cursor] = outer;
        }
        if (node.broken) throw new Error(node.broken);
        node.drawn = true;
      }
      if (result === undefined) throw new Error(nameOf(type) + " returned nothing; return null");
      reconcile(node, result, false);
      for (const [list, run] of node.due || []) list().push([node, run]); // behind those of the children
      node.due = [];
    } catch (error) {
      const guard = node.instance && type.getDerivedStateFromError && !node.caught ? node : null;
      if (!guard) throw error;
      node.caught = true;
      for (const kid of node.kids.values()) remove(kid, true);
      node.kids = new Map();
      node.instance.state = { ...node.instance.state, ...type.getDerivedStateFromError(error) };
      reconcile(node, node.instance.render(), false);
    }
  }

  function drawHost(node, child, past, first) {
    const { type, props } = child;
    if (first) {
      node.dom = SVG.has(type) ? document.createElementNS("http://www.w3.org/2000/svg", type) : document.createElement(type);
      node.listeners = {};
    }
    if (VOID.has(type) && props.children !== undefined) throw new Error("<" + type + "> has no children");
    for (const name of Object.keys(past)) if (!(name in props)) attribute(node, name, undefined);
    for (const name of Object.keys(props)) if (props[name] !== past[name] || name === "value" || name === "checked") attribute(node, name, props[name]);
    if ("value" in props && (type === "input" || type === "textarea" || type === "select") && !props.onChange && !props.readOnly) {
      throw new Error("<" + type + "> has a value and no onChange");
    }
    reconcile(node, props.children, child.many);
    arrange(node.dom, Array.from(node.kids.values()).flatMap(domOf));
    if (first && child.ref) layoutEffects.push([node, () => setRef(child.ref, node.dom)]);
  }

  function attribute(node, name, value) {
    const { dom } = node;
    if (name === "children") return;
    if (name === "dangerouslySetInnerHTML") throw new Error("markup out of data is not wanted here");
    if (WRONG[name]) throw new Error("write " + WRONG[name] + " instead of " + name);
    if (/^on[A-Z]/.test(name)) {
      const field = dom.tagName === "INPUT" || dom.tagName === "TEXTAREA";
      const event = EVENTS[name] || (name === "onChange" && field ? "input" : name.slice(2).toLowerCase());
      if (value !== undefined && value !== null && typeof value !== "function") throw new Error(name + " is no function");
      if (node.listeners[name] === undefined && value) {
        dom.addEventListener(event, (native) => {
          const handler = node.listeners[name];
          if (handler && !(dom.disabled && event === "click")) handler(native);
        });
      }
      node.listeners[name] = value || null;
    } else if (name === "className") dom.setAttribute("class", value || "");
    else if (name === "style") {
      dom.removeAttribute("style");
      for (const [key, one] of Object.entries(value || {})) {
        if (key.includes("-")) throw new Error("write " + key + " in camel case");
        if (typeof one === "number" && one && !UNITLESS.has(key)) dom.style[key] = one + "px";
        else dom.style[key] = one;
      }
    } else if (name === "value" && dom.tagName !== "PROGRESS" && dom.tagName !== "OPTION") {
      if (dom.value !== String(value)) dom.value = value === undefined ? "" : value;
    } else if (name === "checked") dom.checked = Boolean(value);
    else {
      const known = { htmlFor: "for", tabIndex: "tabindex", viewBox: "viewBox", inputMode: "inputmode", readOnly: "readonly", colSpan: "colspan" };
      if (/^[a-z]+[A-Z]/.test(name) && !known[name]) throw new Error("an attribute that is not known here: " + name);
      const attr = known[name] || name;
      const spoken = attr.startsWith("aria-") || attr.startsWith("data-");
      if (typeof value === "function" || (typeof value === "object" && value !== null)) throw new Error(name + " is no text");
      if (value === undefined || value === null || (value === false && !spoken)) dom.removeAttribute(attr);
      else dom.setAttribute(attr, value === true && !spoken ? "" : String(value));
    }
  }

  // ---- drawing again ----

  function schedule(node) {
    if (!node.alive) return;
    queue.add(node);
    if (!scheduled && !drawing) {
      scheduled = true;
      queueMicrotask(flush);
    }
  }

  function flush() {
    scheduled = false;
    drawing = true;
    round = 0;
    try {
      while (queue.size || layoutEffects.length || effects.length) {
        round += 1;
        if (round > LIMIT) throw new Error("drawn " + LIMIT + " times for one change");
        const nodes = Array.from(queue).sort((a, b) => a.depth - b.depth);
        queue = new Set();
        for (const node of nodes) {
          if (!node.alive) continue;
          try {
            component(node, node.element);
          } catch (error) {
            caught(node, error);
          }
          const host = hostOf(node);
          if (host) arrange(host.dom, Array.from(host.kids.values()).flatMap(domOf));
        }
        const early = layoutEffects;
        layoutEffects = [];
        for (const [node, run] of early) if (node.alive) run();
        if (queue.size) continue;
        const late = effects;
        effects = [];
        for (const [node, run] of late) if (node.alive) run();
      }
    } finally {
      drawing = false;
      if (queue.size && round <= LIMIT) schedule(queue.values().next().value);
    }
  }

  function caught(node, error) {
    for (let up = node.parent; up; up = up.parent) {
      const type = up.element && up.element.type;
      if (up.instance && type.getDerivedStateFromError) {
        for (const kid of up.kids.values()) remove(kid, true);
        up.kids = new Map();
        up.instance.setState(type.getDerivedStateFromError(error));
        return;
      }
    }
    throw error;
  }

  // ---- hooks ----

  function hook(make) {
    if (!current) throw new Error("a hook was called outside of a component");
    const at = cursor;
    cursor += 1;
    if (at >= current.hooks.length) {
      if (current.drawn) throw new Error(nameOf(current.element.type) + " calls a hook that it did not call before");
      current.hooks.push(make());
    }
    return current.hooks[at];
  }

  function equal(a, b) {
    return a && b && a.length === b.length && a.every((one, i) => Object.is(one, b[i]));
  }

  function useState(initial) {
    const node = current;
    const mine = hook(() => {
      const made = { kind: "state", value: typeof initial === "function" ? initial() : initial };
      made.set = (next) => {
        const value = typeof next === "function" ? next(made.value) : next;
        if (Object.is(value, made.value)) return;
        made.value = value;
        schedule(node);
      };
      return made;
    });
    return [mine.value, mine.set];
  }

  function useReducer(reduce, initial) {
    const [state, set] = useState(initial);
    return [state, (action) => set((before) => reduce(before, action))];
  }

  function effectInto(list) {
    return (run, needs) => {
      const node = current;
      if (typeof run !== "function") throw new Error("an effect is a function");
      const mine = hook(() => ({ effect: true, needs: null }));
      if (needs && equal(mine.needs, needs)) return;
      mine.needs = needs || null;
      node.due.push([
        list,
        () => {
          if (typeof mine.cleanup === "function") mine.cleanup();
          mine.cleanup = run();
          if (mine.cleanup !== undefined && typeof mine.cleanup !== "function") throw new Error("an effect returns a function or nothing");
        },
      ]);
    };
  }

  function useMemo(make, needs) {
    const mine = hook(() => ({ kind: "memo", needs: null }));
    if (!equal(mine.needs, needs)) {
      mine.value = make();
      mine.needs = needs;
    }
    return mine.value;
  }

  function useRef(initial) {
    return hook(() => ({ kind: "ref", ref: { current: initial } })).ref;
  }

  function createContext(initial) {
    const context = { $: Context, initial };
    context.Provider = { context };
    return context;
  }

  function useContext(context) {
    hook(() => ({ kind: "context" }));
    for (let up = current.parent; up; up = up.parent) if (up.context && up.context.of === context) return up.context.value;
    return context.initial;
  }

  class Component {
    constructor(props) {
      this.props = props;
      this.state = {};
    }
  }
  Component.prototype.isReactComponent = true;

  /** Draw an element into a DOM node, for good. */
  function render(element, into) {
    const root = { parent: null, kids: new Map(), dom: into, hooks: [], depth: 0, alive: true, element: null };
    drawing = true;
    try {
      reconcile(root, element, false);
      arrange(into, Array.from(root.kids.values()).flatMap(domOf));
    } finally {
      drawing = false;
    }
    flush();
  }

  window.StandInReact = {
    React: {
      createElement, Fragment, Component, createContext, useState, useReducer, useMemo, useRef, useContext,
      useEffect: effectInto(() => effects),
      useLayoutEffect: effectInto(() => layoutEffects),
      useCallback: (callback, needs) => useMemo(() => callback, needs),
    },
    ReactDOM: { render },
  };
})();
