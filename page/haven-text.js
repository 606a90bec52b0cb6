// Numbers, times and states as people read them. Pure; everything here takes whatever the data holds and never throws.
(function () {
  "use strict";
  const Haven = (window.HavenVlm = window.HavenVlm || {});

  /** A finite number, or the other value. */
  function number(value, otherwise) {
    return typeof value === "number" && Number.isFinite(value) ? value : otherwise === undefined ? 0 : otherwise;
  }

  /** Text to show: an object or an array where a text belongs is nothing, not "[object Object]" and no error. */
  function text(value) {
    return typeof value === "string" || typeof value === "number" ? String(value) : "";
  }

  /** The first `limit` elements of a list; anything else is an empty list. */
  function list(value, limit) {
    return Array.isArray(value) ? value.slice(0, limit).filter((item) => item !== null && item !== undefined) : [];
  }

  function two(n) {
    return String(n).padStart(2, "0");
  }

  /** A moment of a medium: 3:07, 1:02:03, with tenths when asked for: 3:07.4. */
  function clock(seconds, tenths) {
    const all = Math.max(0, number(seconds));
    const rounded = tenths ? Math.round(all * 10) / 10 : Math.round(all);
    const whole = Math.floor(rounded);
    const hours = Math.floor(whole / 3600);
    const minutes = Math.floor(whole / 60) % 60;
    const rest = tenths ? "." + Math.round((rounded - whole) * 10) : "";
    return (hours ? hours + ":" + two(minutes) : String(minutes)) + ":" + two(whole % 60) + rest;
  }

  /** Seconds of a typed moment: 75.5, 1:15.5 or 0:01:15.5; null when it is none. */
  function readClock(typed) {
    const parts = String(typed).trim().replace(",", ".").split(":");
    if (parts.length > 3 || !parts.every((part, i) => /^\d+(\.\d+)?$/.test(part) && (i === parts.length - 1 || !part.includes(".")))) {
      return null;
    }
    return parts.reduce((sum, part) => sum * 60 + Number(part), 0);
  }

  /** How long something takes: 45 s, 3 min 20 s, 2 h 5 min. */
  function duration(seconds) {
    const whole = Math.max(0, Math.round(number(seconds)));
    if (whole < 60) return whole + " s";
    const minutes = Math.floor(whole / 60);
    if (minutes < 60) return minutes + " min" + (whole % 60 && minutes < 10 ? " " + (whole % 60) + " s" : "");
    return Math.floor(minutes / 60) + " h" + (minutes % 60 ? " " + (minutes % 60) + " min" : "");
  }

  /** 0…1 as a percentage. */
  function percent(share) {
    return Math.round(number(share) * 100) + " %";
  }

  /** 12,345 as the reader's language writes it; small rates keep a decimal. */
  function count(value) {
    const n = number(value);
    return n.toLocaleString(undefined, { maximumFractionDigits: Math.abs(n) < 10 ? 1 : 0 });
  }

  function plural(n, one, many) {
    return count(n) + " " + (number(n) === 1 ? one : many || one + "s");
  }

  /** A time of day as the reader's language writes it. */
  function day(iso) {
    const at = new Date(typeof iso === "number" ? iso : text(iso));
    return Number.isNaN(at.getTime()) ? "" : at.toLocaleString();
  }

  const MODES = {
    tag_videos: "Tag Videos",
    tag_images: "Tag Images",
    preview: "Preview",
    update: "Update Results",
    undo: "Undo Last Run",
    check_endpoints: "Check Endpoints",
    find_marker_settings: "Find Marker Settings",
    evaluate: "Evaluate",
  };

  function mode(name) {
    return Object.prototype.hasOwnProperty.call(MODES, name) ? MODES[name] : text(name);
  }

  Haven.text = { number, text, list, clock, readClock, duration, percent, count, plural, day, mode, MODES };
})();
