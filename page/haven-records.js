// What was: past runs with their causes and reports, and the last check of the endpoints.
(function () {
  "use strict";
  const Haven = (window.HavenVlm = window.HavenVlm || {});
  const { React } = window.PluginApi;
  const h = React.createElement;
  const { text, number, list, duration, count, plural, day } = Haven.text;
  const { Badge, Button, Notice, useWork } = Haven.parts;
  const COUNTS = { tagged: "tagged", incomplete: "incomplete", errored: "unreadable", failed: "failed", skipped: "skipped" };

  function verdict(run) {
    if (run.stopped === true) return ["warn", "Stopped"];
    if (run.ok === false || text(run.ended_because)) return ["warn", "Not all"];
    return run.written === false ? ["quiet", "Nothing written"] : ["good", "Done"];
  }

  function countsText(counts) {
    const given = counts && typeof counts === "object" ? counts : {};
    const parts = Object.keys(COUNTS).filter((key) => number(given[key])).map((key) => plural(given[key], COUNTS[key], COUNTS[key]));
    return parts.join(", ");
  }

  /** What a run came to, in a line. */
  function figures(run) {
    // of a run that was stopped nobody counted what it wrote
    const parts = run.stopped === true ? [] : [countsText(run.counts) || "no media", plural(run.markers, "marker")];
    parts.push(plural(run.asked, "question") + " asked, " + count(run.known) + " known, " + count(run.inherited) + " inherited");
    if (number(run.left_network)) parts.push(plural(run.left_network, "frame") + " left the network");
    return parts.join(" · ");
  }

  function Run({ run }) {
    const [kind, word] = verdict(run);
    const report = text(run.report);
    return h(
      "li",
      { className: "card haven-card haven-run" },
      h(
        "div",
        { className: "haven-run-head" },
        h("h5", null, Haven.text.mode(run.mode), " · run ", text(run.run_id)),
        h(Badge, { kind }, word),
        h("span", { className: "haven-quiet" }, day(run.started), " · ", duration(run.seconds)),
        report
          ? h("a", { href: Haven.stash.liveAddress(report), target: "_blank", rel: "noopener noreferrer" }, "Report")
          : null,
      ),
      countsText(run.counts) || number(run.asked) + number(run.known) ? h("p", null, figures(run)) : null,
      text(run.ended_because) ? h(Notice, { kind: "note" }, "Ended early: ", text(run.ended_because)) : null,
      h(Haven.dashboard.Causes, { causes: list(run.causes, 20) }),
      text(run.summary)
        ? h("details", null, h("summary", null, "Summary"), h("pre", { className: "haven-summary" }, text(run.summary)))
        : null,
      !report && text(run.report_file)
        ? h("p", { className: "haven-quiet" }, "The report is on the machine that runs Stash: ", text(run.report_file))
        : null,
    );
  }

  /** At most fifty runs, the newest first. */
  function Runs({ live }) {
    if (!live.runs.length) return h("p", null, live.loaded ? "No run yet." : "Loading …");
    return h(
      "ol",
      { className: "haven-runs", "aria-label": "Past runs" },
      live.runs.map((run, index) => h(Run, { key: text(run.run_id) + "-" + index, run })),
    );
  }

  const VERDICTS = { ok: ["good", "OK"], note: ["warn", "Note"], problem: ["bad", "Problem"] };

  function Section({ section }) {
    const items = list(section.items, 100);
    return h(
      "section",
      { className: "card haven-card" },
      h("h5", null, text(section.title) || text(section.kind), text(section.address) ? h("span", { className: "haven-quiet" }, " ", text(section.address)) : null),
      h(
        "div",
        { className: "haven-scroll", tabIndex: 0, role: "region", "aria-label": text(section.title) || text(section.kind) },
        h(
          "table",
          { className: "table table-striped haven-table" },
          h("thead", null, h("tr", null, ["Looked at", "Result", "Found", "What to do"].map((head) => h("th", { key: head, scope: "col" }, head)))),
          h(
            "tbody",
            null,
            items.map((item, index) => {
              const name = text(item.verdict);
              const [kind, word] = Object.prototype.hasOwnProperty.call(VERDICTS, name) ? VERDICTS[name] : ["quiet", name];
              return h(
                "tr",
                { key: index },
                h("th", { scope: "row" }, text(item.name)),
                h("td", null, h(Badge, { kind }, word)),
                h("td", null, text(item.text)),
                h("td", null, text(item.fix) || "–"),
              );
            }),
          ),
        ),
      ),
    );
  }

  /** The last Check Endpoints, one table per endpoint and one per thing around them. */
  function Check({ live }) {
    const [busy, error, start] = useWork();
    const check = live.check;
    const again = h(
      Button,
      {
        look: "primary",
        disabled: busy,
        onClick: async () => {
          await start(() => Haven.stash.runTask("check_endpoints", {}));
          Haven.live.hurry();
        },
      },
      "Check Endpoints",
    );
    return h(
      React.Fragment,
      null,
      h("div", { className: "haven-buttons" }, again, check ? h("span", { className: "haven-quiet" }, "Last check: ", day(check.at)) : null),
      error ? h(Notice, { kind: "problem" }, error) : null,
      check
        ? list(check.sections, 100).map((section, index) => h(Section, { key: index, section }))
        : h("p", null, live.loaded ? "Nothing was checked yet." : "Loading …"),
    );
  }

  Haven.records = { Runs, Check };
})();
