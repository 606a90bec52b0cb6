// What stands where on a timeline, and what a person decided about it. Pure: no React, no page, no clock.
(function () {
  "use strict";
  const Haven = (window.HavenVlm = window.HavenVlm || {});
  const { number, text, list } = Haven.text;
  const STATES = ["found", "ours", "user", "confirmed", "rejected"];
  const SAMPLES = ["asked", "inherited", "blank", "failed"]; // the worst last: it is the one to be seen
  const SHORTEST_S = 0.1;
  const NARROWEST_PX = 7;
  const MAX_LANES = 5000;
  const MAX_SPANS = 100000;
  const MAX_SAMPLES = 200000;

  /** A reply of op 'scene' made ready: spans in order, each with a key that stays, and the reach of all before it. */
  function readScene(reply) {
    const scene = reply.scene || {};
    let left = MAX_SPANS;
    const lanes = list(reply.lanes, MAX_LANES).map((lane, at) => {
      const spans = list(lane.spans, left)
        .filter((span) => number(span.end, -1) >= number(span.start, 0) && number(span.start, -1) >= 0)
        .map((span, i) => ({
          key: at + "." + i,
          start: span.start,
          end: span.end,
          confidence: number(span.confidence, null),
          marker_id: span.marker_id === null || span.marker_id === undefined ? null : text(span.marker_id),
          state: STATES.includes(span.state) ? span.state : "found",
        }));
      left -= spans.length;
      return arranged({ at, tag: text(lane.tag), name: text(lane.stash_name) || text(lane.tag), spans });
    });
    const samples = list(reply.samples, MAX_SAMPLES)
      .filter((sample) => number(sample.t, -1) >= 0)
      .map((sample) => ({ t: sample.t, state: SAMPLES.includes(sample.state) ? sample.state : "failed", reason: text(sample.reason), tags: sample.tags }))
      .sort((a, b) => a.t - b.t);
    const last = Math.max(0, ...lanes.map((lane) => (lane.reach.length ? lane.reach[lane.reach.length - 1] : 0)));
    const duration = Math.max(number(scene.duration), last, 1);
    return { id: text(scene.id), title: text(scene.title), duration, lanes, samples };
  }

  /** A lane with its spans by start, and for each the latest end so far: so the first span in sight is found by halving. */
  function arranged(lane) {
    const spans = lane.spans.slice().sort((a, b) => a.start - b.start || a.end - b.end);
    const reach = new Array(spans.length);
    let latest = 0;
    spans.forEach((span, i) => {
      latest = Math.max(latest, span.end);
      reach[i] = latest;
    });
    return { ...lane, spans, reach };
  }

  /** Index of the first element for which `holds`, which once true stays true. */
  function firstWhere(length, holds) {
    let low = 0;
    let high = length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (holds(middle)) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** Spans of a lane that touch from…to. */
  function inSight(lane, from, to) {
    const begin = firstWhere(lane.spans.length, (i) => lane.reach[i] >= from);
    const end = firstWhere(lane.spans.length, (i) => lane.spans[i].start > to);
    return lane.spans.slice(begin, end).filter((span) => span.end >= from);
  }

  /**
   * Bars to draw for a lane: one for a span, or one for several that are too narrow to tell apart. So many at most as
   * fit side by side, however many spans there are. [{key, start, end, span | null, count, key of all within}]
   */
  function bars(lane, view, width_px, always) {
    const second_px = width_px / Math.max(view.to - view.from, 1e-9);
    const result = [];
    for (const span of inSight(lane, view.from, view.to)) {
      const last = result[result.length - 1];
      const narrow = (Math.max(last ? last.end : 0, span.end) - (last ? last.start : 0)) * second_px < NARROWEST_PX;
      const crowded = last && narrow && span.key !== always && last.key !== always;
      if (crowded) {
        last.end = Math.max(last.end, span.end);
        last.span = null;
        last.count += 1;
      } else {
        result.push({ key: span.key, start: span.start, end: span.end, span, count: 1 });
      }
    }
    return result;
  }

  /** Ticks of the sampled frames: one per slot of a few pixels, in the state that matters most. [{slot, state, count}] */
  function ticks(samples, view, slots) {
    const slot_s = (view.to - view.from) / Math.max(slots, 1);
    const begin = firstWhere(samples.length, (i) => samples[i].t >= view.from);
    const result = [];
    for (let i = begin; i < samples.length && samples[i].t <= view.to; i += 1) {
      const slot = Math.min(slots - 1, Math.floor((samples[i].t - view.from) / slot_s));
      const last = result[result.length - 1];
      if (last && last.slot === slot) {
        last.count += 1;
        if (SAMPLES.indexOf(samples[i].state) > SAMPLES.indexOf(last.state)) last.state = samples[i].state;
      } else {
        result.push({ slot, state: samples[i].state, count: 1 });
      }
    }
    return result;
  }

  /** The sample nearest to a moment, or null. */
  function nearest(samples, t) {
    const after = firstWhere(samples.length, (i) => samples[i].t >= t);
    const candidates = [samples[after - 1], samples[after]].filter(Boolean);
    return candidates.sort((a, b) => Math.abs(a.t - t) - Math.abs(b.t - t))[0] || null;
  }

  /** So many sampled frames spread over the view, none twice; without samples moments at even distances. */
  function spread(samples, view, n) {
    const step = (view.to - view.from) / Math.max(n, 1);
    const result = [];
    for (let i = 0; i < n; i += 1) {
      const t = view.from + (i + 0.5) * step;
      const sample = nearest(samples, t);
      const fits = sample && Math.abs(sample.t - t) <= step / 2;
      if (fits && !(result.length && result[result.length - 1].t === sample.t)) result.push(sample);
      else if (!samples.length) result.push({ t: Math.round(t * 10) / 10, state: null, reason: "", tags: {} });
    }
    return result;
  }

  /** Round times for the scale: [seconds], about one per `room_px`. */
  function scale(view, width_px, room_px) {
    const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];
    const least = ((view.to - view.from) / Math.max(width_px, 1)) * room_px;
    const step = STEPS.find((candidate) => candidate >= least) || Math.ceil(least / 3600) * 3600;
    const result = [];
    for (let i = Math.ceil(view.from / step - 1e-9); i * step <= view.to + 1e-9 && result.length < 200; i += 1) {
      result.push(Math.round(i * step * 1000) / 1000);
    }
    return result;
  }

  /** A view of so many seconds around a moment, inside 0…duration. */
  function around(middle, span_s, duration) {
    const length = Math.min(duration, Math.max(1, span_s));
    const from = Math.min(Math.max(0, middle - length / 2), duration - length);
    return { from, to: from + length };
  }

  // ---- decisions: key of the span → {action, new_start?, new_end?}; spans added by hand stand in `added` ----

  const NOTHING = { decided: {}, added: [], past: [] };
  const MAX_PAST = 100;

  function changed(edits, decided, added) {
    return { decided, added, past: [...edits.past.slice(1 - MAX_PAST), { decided: edits.decided, added: edits.added }] };
  }

  function rounded(seconds) {
    return Math.round(seconds * 1000) / 1000;
  }

  /** Ends as they may be: within the medium, start before end. `edge`: which of both was moved and has to give way. */
  function fitted(start, end, edge, duration) {
    let from = Math.min(Math.max(0, start), duration);
    let to = Math.min(Math.max(0, end), duration);
    if (to - from < SHORTEST_S) {
      if (edge === "start") from = Math.max(0, to - SHORTEST_S);
      else to = Math.min(duration, from + SHORTEST_S);
    }
    return { start: rounded(from), end: rounded(to) };
  }

  /** Edits → edits; what is asked for nothing changes nothing. */
  function decide(edits, action) {
    const { decided, added } = edits;
    switch (action.do) {
      case "confirm":
      case "reject": {
        const mine = added.find((span) => span.key === action.key);
        if (mine) return action.do === "reject" ? changed(edits, decided, added.filter((span) => span !== mine)) : edits;
        return changed(edits, { ...decided, [action.key]: { action: action.do } }, added);
      }
      case "move": {
        const ends = fitted(action.start, action.end, action.edge, action.duration);
        if (added.some((span) => span.key === action.key)) {
          return changed(edits, decided, added.map((span) => (span.key === action.key ? { ...span, ...ends } : span)));
        }
        return changed(edits, { ...decided, [action.key]: { action: "move", new_start: ends.start, new_end: ends.end } }, added);
      }
      case "add": {
        const ends = fitted(action.start, action.end, "end", action.duration);
        return changed(edits, decided, [...added, { key: action.key, tag: action.tag, ...ends }]);
      }
      case "forget": {
        const rest = { ...decided };
        delete rest[action.key];
        return changed(edits, rest, added.filter((span) => span.key !== action.key));
      }
      case "back": {
        if (!edits.past.length) return edits;
        const before = edits.past[edits.past.length - 1];
        return { ...before, past: edits.past.slice(0, -1) };
      }
      case "clear":
        return NOTHING;
      default:
        return edits;
    }
  }

  function howMany(edits) {
    return Object.keys(edits.decided).length + edits.added.length;
  }

  /** Lanes as they would be with the decisions: moved spans at their new place, added ones in, each with `pending`. */
  function withEdits(lanes, edits) {
    const decidedIn = new Set(Object.keys(edits.decided).map((key) => Number(key.split(".")[0])));
    const addedTo = new Map();
    for (const span of edits.added) addedTo.set(span.tag, [...(addedTo.get(span.tag) || []), span]);
    const result = lanes.map((lane) => {
      const mine = addedTo.get(lane.tag) || [];
      addedTo.delete(lane.tag);
      if (!mine.length && !decidedIn.has(lane.at)) return lane;
      const spans = lane.spans.map((span) => {
        const decision = edits.decided[span.key];
        if (!decision) return span;
        const place = decision.action === "move" ? { start: decision.new_start, end: decision.new_end } : {};
        return { ...span, ...place, pending: decision.action };
      });
      return arranged({ ...lane, spans: [...spans, ...mine.map(byHand)] });
    });
    for (const [tag, mine] of addedTo) {
      result.push(arranged({ at: result.length, tag, name: tag, spans: mine.map(byHand) }));
    }
    return result;
  }

  function byHand(span) {
    return { ...span, confidence: null, marker_id: null, state: "user", pending: "add" };
  }

  /** The decisions as op 'review' takes them. */
  function decisions(lanes, edits) {
    const result = [];
    for (const lane of lanes) {
      for (const span of lane.spans) {
        const decision = edits.decided[span.key];
        if (!decision) continue;
        const one = { action: decision.action, tag: lane.tag, start: span.start, end: span.end };
        if (span.marker_id !== null) one.marker_id = span.marker_id;
        if (decision.action === "move") Object.assign(one, { new_start: decision.new_start, new_end: decision.new_end });
        result.push(one);
      }
    }
    for (const span of edits.added) {
      result.push({ action: "add", tag: span.tag, start: span.start, end: span.end });
    }
    return result;
  }

  Haven.model = {
    NOTHING, STATES, SHORTEST_S, readScene, inSight, bars, ticks, nearest, spread, scale, around, fitted, decide, howMany, withEdits, decisions,
  };
})();
