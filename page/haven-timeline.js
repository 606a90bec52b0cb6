// The timeline: lanes of spans, sampled frames, ends to take hold of. Draws only what is in sight.
(function () {
  "use strict";
  const Haven = (window.HavenVlm = window.HavenVlm || {});
  const { React } = window.PluginApi;
  const h = React.createElement;
  const { clock, percent, plural, count } = Haven.text;
  const { Button } = Haven.parts;
  const model = Haven.model;
  const LANE_PX = 46;
  const LANES_SEEN = 8;
  const SPARE_LANES = 2;
  const TICK_PX = 4;
  const THUMB_PX = 128;
  const ZOOM = 2;
  const STEP_S = 0.1;
  const BIG_STEP_S = 1;
  const PAGE_STEP_S = 10;
  const SIGNS = { found: "◌", ours: "●", user: "★", confirmed: "✓", rejected: "✕" };
  const WORDS = {
    found: "found, no marker", ours: "marker of ours", user: "your marker", confirmed: "confirmed", rejected: "rejected",
  };
  const PENDING = { confirm: "to be confirmed", reject: "to be rejected", move: "moved", add: "added" };

  function spanWords(span) {
    const sure = span.confidence === null ? "" : ", confidence " + percent(span.confidence);
    const pending = span.pending ? ", " + PENDING[span.pending] + ", not saved" : "";
    return clock(span.start, true) + " to " + clock(span.end, true) + sure + ", " + WORDS[span.state] + pending;
  }

  /** Width of an element's inside, kept up to date. */
  function useWidth(ref) {
    const [width, setWidth] = React.useState(600);
    React.useLayoutEffect(() => {
      const element = ref.current;
      const measure = () => setWidth(Math.max(100, element.clientWidth));
      const observer = new ResizeObserver(measure);
      observer.observe(element);
      measure();
      return () => observer.disconnect();
    }, []);
    return width;
  }

  function place(view, start, end) {
    const length = view.to - view.from;
    const left = Math.max(-1, ((start - view.from) / length) * 100);
    const right = Math.min(101, ((end - view.from) / length) * 100);
    return { left: left + "%", width: Math.max(0, right - left) + "%" };
  }

  /** One end of the chosen span: drag it, or move it with the arrow keys. */
  function Handle({ span, edge, view, duration, tag, onDrag, onMove, onForget, onReject }) {
    const at = span[edge];
    const moved = (to) => (edge === "start" ? { start: to, end: span.end } : { start: span.start, end: to });
    const timeOf = (event) => {
      const box = event.currentTarget.parentElement.getBoundingClientRect();
      return view.from + ((event.clientX - box.left) / Math.max(box.width, 1)) * (view.to - view.from);
    };
    const dragging = React.useRef(false);
    const keys = (event) => {
      const step = event.shiftKey ? BIG_STEP_S : STEP_S;
      const to = {
        ArrowLeft: at - step,
        ArrowDown: at - step,
        ArrowRight: at + step,
        ArrowUp: at + step,
        PageDown: at - PAGE_STEP_S,
        PageUp: at + PAGE_STEP_S,
        Home: edge === "start" ? 0 : span.start + model.SHORTEST_S,
        End: edge === "start" ? span.end - model.SHORTEST_S : duration,
      }[event.key];
      if (to !== undefined) onMove({ ...moved(to), edge });
      else if (event.key === "Escape") {
        dragging.current = false;
        onDrag(null);
        onForget();
      } else if (event.key === "Delete" || event.key === "Backspace") onReject();
      else return;
      event.preventDefault();
      event.stopPropagation();
    };
    if (at < view.from || at > view.to) return null;
    return h("div", {
      className: "haven-handle haven-handle-" + edge,
      role: "slider",
      tabIndex: 0,
      "data-edge": edge,
      style: { left: ((at - view.from) / (view.to - view.from)) * 100 + "%" },
      "aria-label": (edge === "start" ? "Start of " : "End of ") + tag,
      "aria-valuemin": edge === "start" ? 0 : span.start,
      "aria-valuemax": edge === "start" ? span.end : duration,
      "aria-valuenow": at,
      "aria-valuetext": clock(at, true),
      onKeyDown: keys,
      onPointerDown: (event) => {
        event.preventDefault();
        event.currentTarget.setPointerCapture(event.pointerId);
        event.currentTarget.focus();
        dragging.current = true;
      },
      onPointerMove: (event) => {
        if (dragging.current) onDrag(model.fitted(...Object.values(moved(timeOf(event))), edge, duration));
      },
      onPointerUp: (event) => {
        if (!dragging.current) return;
        dragging.current = false;
        onDrag(null);
        onMove({ ...moved(timeOf(event)), edge });
      },
      onPointerCancel: () => {
        dragging.current = false;
        onDrag(null);
      },
    });
  }

  /** One tag over time. */
  function Lane({ lane, index, total, view, width, selected, tabStop, drag, duration, on }) {
    const bars = React.useMemo(() => model.bars(lane, view, width, selected), [lane, view, width, selected]);
    const chosen = bars.find((bar) => bar.span && bar.key === selected);
    const shown = chosen && drag ? { ...chosen.span, ...drag } : chosen && chosen.span;
    return h(
      "div",
      {
        className: "haven-lane",
        role: "listitem",
        "aria-setsize": total,
        "aria-posinset": index + 1,
        "aria-label": lane.name + ", " + plural(lane.spans.length, "span"),
        style: { top: index * LANE_PX + "px" },
      },
      h("div", { className: "haven-lane-name", title: lane.name }, lane.name, h("span", { className: "haven-quiet" }, " " + count(lane.spans.length))),
      h(
        "div",
        { className: "haven-track", onClick: (event) => on.track(event) },
        bars.map((bar) => {
          const span = bar.key === selected && shown ? shown : bar.span;
          const words = span
            ? lane.name + ", " + spanWords(span)
            : lane.name + ", " + plural(bar.count, "span") + " from " + clock(bar.start) + " to " + clock(bar.end) + ", Enter looks closer";
          const classes = ["haven-bar", span ? "haven-bar-" + span.state : "haven-bar-many"];
          if (span && span.pending) classes.push("haven-pending", "haven-pending-" + span.pending);
          const spot = span || bar;
          return h(
            "button",
            {
              key: bar.key,
              type: "button",
              className: classes.join(" "),
              style: place(view, spot.start, spot.end),
              tabIndex: bar.key === tabStop ? 0 : -1,
              "data-key": bar.key,
              "aria-label": words,
              "aria-pressed": bar.key === selected,
              title: words,
              onClick: (event) => {
                event.stopPropagation();
                on.choose(index, bar);
              },
              onKeyDown: (event) => on.keys(event, index, bar),
            },
            span ? SIGNS[span.state] + (span.confidence === null ? "" : " " + percent(span.confidence)) : count(bar.count),
          );
        }),
        shown
          ? ["start", "end"].map((edge) =>
              h(Handle, {
                key: edge, span: shown, edge, view, duration, tag: lane.name, onDrag: on.drag,
                onMove: (ends) => on.decide({ do: "move", key: selected, duration, ...ends }),
                onForget: () => on.decide({ do: "forget", key: selected }),
                onReject: () => on.decide({ do: "reject", key: selected }),
              }),
            )
          : null,
      ),
    );
  }

  /** The frames that were looked at: ticks by what became of them, and some of them as pictures. */
  function Samples({ scene, view, width, onSeek }) {
    const slots = Math.max(1, Math.floor(width / TICK_PX));
    const ticks = React.useMemo(() => model.ticks(scene.samples, view, slots), [scene.samples, view, slots]);
    const across = Math.max(1, Math.floor(width / THUMB_PX));
    const shown = React.useMemo(() => model.spread(scene.samples, view, across), [scene.samples, view, across]);
    const [at, setAt] = React.useState(null);
    const hovered = at === null ? null : model.nearest(scene.samples, at);
    const times = shown.map((sample) => sample.t);
    const picture = Haven.thumbnails.usePictures(scene.id, hovered ? [...times, hovered.t] : times);
    const say = (sample) => {
      const tags = Object.entries(sample.tags && typeof sample.tags === "object" ? sample.tags : {});
      const seen = tags.slice(0, 8).map(([tag, sure]) => tag + " " + percent(sure)).join(", ");
      return clock(sample.t, true) + (sample.state ? ", " + sample.state : "") + (sample.reason ? ": " + sample.reason : "") + (seen ? " · " + seen : "");
    };
    const step = (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      const current = hovered || model.nearest(scene.samples, (view.from + view.to) / 2);
      if (!current) return;
      if (by) {
        const next = scene.samples[scene.samples.indexOf(current) + by];
        if (next) setAt(next.t);
      } else if (event.key === "Enter" || event.key === " ") onSeek(current.t);
      else return;
      event.preventDefault();
      event.stopPropagation();
    };
    const timeAt = (event) => {
      const box = event.currentTarget.getBoundingClientRect();
      return view.from + ((event.clientX - box.left) / Math.max(box.width, 1)) * (view.to - view.from);
    };
    return h(
      "div",
      { className: "haven-samples" },
      h(
        "div",
        { className: "haven-strip", role: "group", "aria-label": "Sampled frames as pictures" },
        shown.map((sample) =>
          h(
            "button",
            {
              key: sample.t,
              type: "button",
              className: "haven-thumb haven-sample-" + (sample.state || "none"),
              title: say(sample),
              onClick: () => onSeek(sample.t),
            },
            h(Haven.thumbnails.Picture, { image: picture(sample.t), alt: "" }),
            h("span", { className: "haven-thumb-text" }, clock(sample.t, true), sample.state ? " " + sample.state : ""),
          ),
        ),
      ),
      h(
        "div",
        {
          className: "haven-ticks",
          role: "slider",
          tabIndex: 0,
          "aria-label": "Sampled frames, arrow keys step through them, Enter goes there",
          "aria-valuemin": 0,
          "aria-valuemax": Math.round(scene.duration),
          "aria-valuenow": hovered ? hovered.t : Math.round((view.from + view.to) / 2),
          "aria-valuetext": hovered ? say(hovered) : plural(scene.samples.length, "sampled frame"),
          onMouseMove: (event) => setAt(timeAt(event)),
          onMouseLeave: () => setAt(null),
          onBlur: () => setAt(null),
          onClick: (event) => onSeek(timeAt(event)),
          onKeyDown: step,
        },
        ticks.map((tick) =>
          h("i", { key: tick.slot, className: "haven-tick haven-sample-" + tick.state, style: { left: (tick.slot / slots) * 100 + "%" } }),
        ),
      ),
      hovered
        ? h(
            "div",
            { className: "haven-preview", style: { left: Math.min(78, Math.max(0, ((hovered.t - view.from) / (view.to - view.from)) * 100 - 10)) + "%" } },
            h(Haven.thumbnails.Picture, { image: picture(hovered.t), alt: "" }),
            h("div", null, say(hovered)),
          )
        : null,
    );
  }

  /** Where the player is; moved without React, some times a second. */
  function Playhead({ view, video }) {
    const line = React.useRef(null);
    React.useEffect(() => {
      const show = () => {
        const player = video();
        const t = player ? player.currentTime : -1;
        const inside = t >= view.from && t <= view.to;
        line.current.style.display = inside ? "block" : "none";
        if (inside) line.current.style.left = ((t - view.from) / (view.to - view.from)) * 100 + "%";
      };
      const heard = (event) => {
        if (event.target === video()) show();
      };
      show();
      document.addEventListener("timeupdate", heard, true);
      document.addEventListener("seeked", heard, true);
      return () => {
        document.removeEventListener("timeupdate", heard, true);
        document.removeEventListener("seeked", heard, true);
      };
    }, [view, video]);
    return h("div", { className: "haven-playhead", ref: line, "aria-hidden": true });
  }

  function Timeline({ scene, lanes, selected, onSelect, onSeek, onDecide, video }) {
    const frame = React.useRef(null);
    const box = React.useRef(null);
    const width = useWidth(frame);
    const [view, setView] = React.useState({ from: 0, to: scene.duration });
    const [top, setTop] = React.useState(0);
    const [focus, setFocus] = React.useState("");
    const [drag, setDrag] = React.useState(null);
    const wantsFocus = React.useRef("");
    const height = LANE_PX * Math.min(LANES_SEEN, Math.max(1, lanes.length));
    const first = Math.max(0, Math.floor(top / LANE_PX) - SPARE_LANES);
    const shown = lanes.slice(first, Math.ceil((top + height) / LANE_PX) + SPARE_LANES);
    const length = view.to - view.from;
    const middle = (view.from + view.to) / 2;

    const barsOf = (lane) => model.bars(lane, view, width, selected);
    const drawn = shown.map(barsOf);
    const stop = drawn.some((bars) => bars.some((bar) => bar.key === focus)) ? focus : ((drawn.find((bars) => bars.length) || [])[0] || {}).key;

    React.useLayoutEffect(() => {
      if (!wantsFocus.current) return;
      const element = box.current.querySelector('[data-key="' + wantsFocus.current + '"]');
      if (!element) return; // scrolled to: it is there after the next drawing
      wantsFocus.current = "";
      element.focus({ preventScroll: true });
    });

    const goTo = (index, key) => {
      const upper = index * LANE_PX;
      if (upper < box.current.scrollTop) box.current.scrollTop = upper;
      else if (upper + LANE_PX > box.current.scrollTop + height) box.current.scrollTop = upper + LANE_PX - height;
      wantsFocus.current = key;
      setFocus(key);
    };
    const sideways = (index, bar, by) => {
      const lane = lanes[index];
      const bars = barsOf(lane);
      const next = bars[bars.findIndex((one) => one.key === bar.key) + by];
      if (next) return goTo(index, next.key);
      const beyond = by > 0 ? lane.spans.find((span) => span.start > view.to) : lane.spans.filter((span) => span.end < view.from).pop();
      if (!beyond) return undefined;
      setView(model.around((beyond.start + beyond.end) / 2, length, scene.duration));
      return goTo(index, beyond.key);
    };
    const upDown = (index, bar, by) => {
      for (let i = index + by; i >= 0 && i < lanes.length; i += by) {
        const bars = barsOf(lanes[i]);
        if (bars.length) {
          const near = bars.reduce((best, one) => (Math.abs(one.start - bar.start) < Math.abs(best.start - bar.start) ? one : best));
          return goTo(i, near.key);
        }
      }
      return undefined;
    };
    const choose = (index, bar) => {
      if (!bar.span) {
        setView(model.around((bar.start + bar.end) / 2, Math.max((bar.end - bar.start) * 1.5, length / 16), scene.duration));
        return goTo(index, bar.key);
      }
      onSelect(bar.key);
      onSeek(bar.span.start);
      wantsFocus.current = bar.key;
      setFocus(bar.key);
      return undefined;
    };
    const on = {
      choose,
      drag: setDrag,
      decide: onDecide,
      track: (event) => {
        const at = event.currentTarget.getBoundingClientRect();
        if (!event.target.closest(".haven-handle")) onSeek(view.from + ((event.clientX - at.left) / Math.max(at.width, 1)) * length);
      },
      keys: (event, index, bar) => {
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        const ends = barsOf(lanes[index]);
        const act = {
          ArrowRight: () => sideways(index, bar, 1),
          ArrowLeft: () => sideways(index, bar, -1),
          ArrowDown: () => upDown(index, bar, 1),
          ArrowUp: () => upDown(index, bar, -1),
          Home: () => goTo(index, ends[0].key),
          End: () => goTo(index, ends[ends.length - 1].key),
          Enter: () => choose(index, bar),
          " ": () => choose(index, bar),
          Escape: () => onSelect(""),
          Delete: () => bar.span && onDecide({ do: "reject", key: bar.key }),
          Backspace: () => bar.span && onDecide({ do: "reject", key: bar.key }),
          c: () => bar.span && onDecide({ do: "confirm", key: bar.key }),
          "+": () => zoom(1 / ZOOM),
          "-": () => zoom(ZOOM),
        }[event.key];
        if (!act) return;
        event.preventDefault();
        event.stopPropagation();
        act();
      },
    };
    const zoom = (factor) => {
      const lane = lanes.find((one) => one.spans.some((span) => span.key === selected));
      const span = lane && lane.spans.find((one) => one.key === selected);
      const about = span && span.end >= view.from && span.start <= view.to ? (span.start + span.end) / 2 : middle;
      setView(model.around(about, length * factor, scene.duration));
    };

    const whole = length >= scene.duration;
    return h(
      "div",
      { className: "haven-timeline" },
      h(
        "div",
        { className: "haven-buttons", role: "group", "aria-label": "What part is seen" },
        h(Button, { className: "btn-sm", disabled: whole, "aria-label": "Earlier", onClick: () => setView(model.around(middle - length / 2, length, scene.duration)) }, "◀"),
        h(Button, { className: "btn-sm", disabled: whole, "aria-label": "Later", onClick: () => setView(model.around(middle + length / 2, length, scene.duration)) }, "▶"),
        h(Button, { className: "btn-sm", disabled: length <= 1, "aria-label": "Zoom in", onClick: () => zoom(1 / ZOOM) }, "+"),
        h(Button, { className: "btn-sm", disabled: whole, "aria-label": "Zoom out", onClick: () => zoom(ZOOM) }, "−"),
        h(Button, { className: "btn-sm", disabled: whole, onClick: () => setView({ from: 0, to: scene.duration }) }, "All"),
        h("span", { className: "haven-quiet", "data-view": "" }, clock(view.from) + " – " + clock(view.to)),
      ),
      h(Samples, { scene, view, width, onSeek }),
      h(
        "div",
        { className: "haven-lanes-frame", ref: frame },
        h(
          "div",
          { className: "haven-scale", "aria-hidden": true },
          model.scale(view, width, 70).map((t) =>
            h("span", { key: t, style: { left: ((t - view.from) / length) * 100 + "%" } }, clock(t, length < 20)),
          ),
        ),
        h(
          "div",
          {
            className: "haven-lanes",
            ref: box,
            role: "list",
            "aria-label": "Spans by tag: arrow keys move between them, Enter chooses one, Delete rejects it, C confirms it",
            style: { height: height + "px" },
            onScroll: (event) => setTop(event.currentTarget.scrollTop),
          },
          h("div", { className: "haven-lanes-all", role: "presentation", style: { height: lanes.length * LANE_PX + "px" } }),
          shown.map((lane, i) =>
            h(Lane, {
              key: lane.at, lane, index: first + i, total: lanes.length, view, width, selected, tabStop: stop, drag, duration: scene.duration, on,
            }),
          ),
        ),
        h(Playhead, { view, video }),
      ),
    );
  }

  Haven.timeline = { Timeline, WORDS, SIGNS, PENDING, spanWords };
})();
