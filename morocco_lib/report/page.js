// The table sorts and filters itself, the chart is drawn from the JSON beside it. Without scripts the page still shows everything.
(() => {
  "use strict";
  const find = (selector) => document.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // -- the table ------------------------------------------------------------------------------------------------
  const rows = all("[id^=results] tbody tr");
  for (const table of all("table[id^=results]")) {
    const body = table.tBodies[0], rows = all("tr", body), heads = all("thead th", table);
    const key = (row, column) => {
      const cell = row.cells[column], value = cell.dataset.value;
      return value === undefined ? cell.textContent.trim() : value === "" ? null : Number(value);
    };
    const sort = (column, down) => {
      const sign = down ? -1 : 1;
      const ordered = [...rows].sort((a, b) => {
        const x = key(a, column), y = key(b, column);
        if (x === null || y === null) return (x === null) - (y === null);  // what was not measured comes last
        return sign * (typeof x === "number" ? x - y : x.localeCompare(y));
      });
      body.append(...ordered);
      heads.forEach((head, k) => k === column ? head.setAttribute("aria-sort", down ? "descending" : "ascending") : head.removeAttribute("aria-sort"));
    };
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const before = head.getAttribute("aria-sort"), numeric = rows.some((row) => row.cells[column].dataset.value);
        sort(column, before ? before === "ascending" : numeric);
      });
    });
  }
  const filter = find("#filter"), count = find("#count");
  const apply = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = words.length ? `${shown} of ${rows.length}` : "";
  };
  filter.addEventListener("input", apply);
  find("#tools").hidden = false;

  // -- the chart ------------------------------------------------------------------------------------------------
  const holder = find("#chart");
  if (!holder) return;
  const COLOURS = 8;  // more models than that share colours: the text over a disc names them
  const views = JSON.parse(find("#points").textContent), choice = find("#view");
  views.forEach((view, k) => choice.append(new Option(view.name, k)));
  const draw = () => {
    const view = views[Number(choice.value)], points = view.points;
    const { Plotting, ColumnDataSource, HoverTool, NumeralTickFormatter, Span, Range1d } = Bokeh;
    const speeds = points.flatMap((p) => p.speed).filter((v) => v > 0);
    const scores = points.flatMap((p) => p.score).concat(view.majority ?? []);
    const pad = 0.12 * (Math.max(...scores) - Math.min(...scores) + 0.02);
    const rows = Object.keys(points[0].texts);
    const hover = new HoverTool({ tooltips: [["", "@title"], ...rows.map((name, k) => [name, `@text${k}`]), ["", "@front"]], attachment: "horizontal" });
    const figure = Plotting.figure({
      height: 440, sizing_mode: "stretch_width", x_axis_type: "log", toolbar_location: "above", tools: ["pan", "wheel_zoom", "box_zoom", "reset", "tap", hover],
      x_range: new Range1d({ start: Math.min(...speeds) / 2, end: Math.max(...speeds) * 2 }),
      y_range: new Range1d({ start: Math.min(...scores) - pad, end: Math.max(...scores) + pad }),
      background_fill_color: null, border_fill_color: null,
    });
    figure.xaxis.formatter = new NumeralTickFormatter({ format: "0,0.[000]" });
    figure.toolbar.logo = null;
    const grey = "#8a8a8a";
    for (const [axis, name] of [[figure.xaxis, "records per second"], [figure.yaxis, "score"]]) {
      axis.axis_label = name;
      for (const part of ["axis_label_text_color", "major_label_text_color", "axis_line_color", "major_tick_line_color", "minor_tick_line_color"]) axis[part] = grey;
    }
    figure.grid.grid_line_alpha = 0.25;
    if (view.majority !== null) figure.add_layout(new Span({ location: view.majority, dimension: "width", line_dash: "dashed", line_color: grey }));
    const column = (of) => points.map(of), colour = column((p) => (p.verdict === "VALID" ? p.colour : "#b8b8b8"));
    const source = new ColumnDataSource({ data: {
      x: column((p) => p.speed[0]), low: column((p) => p.speed[1]), high: column((p) => p.speed[2]),
      y: column((p) => p.score[0]), bottom: column((p) => p.score[1]), top: column((p) => p.score[2]),
      size: column((p) => p.size), colour, rim: column((p) => p.colour), width: column((p) => (p.front === null ? 1 : 3)),
      title: column((p) => `${p.model}${p.on ? ` on ${p.on}` : ""}${p.batch ? `, batch ${p.batch}` : ""}: ${p.verdict}`),
      dash: column((p) => (p.on ? "dashed" : "solid")),
      front: column((p) => (p.front === null ? "" : `none is better in everything, sure to ${Math.round(100 * p.front)} %`)),
      ...Object.fromEntries(rows.map((name, k) => [`text${k}`, column((p) => p.texts[name])])),
    } });
    figure.segment({ x0: { field: "low" }, x1: { field: "high" }, y0: { field: "y" }, y1: { field: "y" }, line_color: { field: "colour" }, line_width: 1.5, source });
    figure.segment({ x0: { field: "x" }, x1: { field: "x" }, y0: { field: "bottom" }, y1: { field: "top" }, line_color: { field: "colour" }, line_width: 1.5, source });
    const discs = figure.scatter({ x: { field: "x" }, y: { field: "y" }, size: { field: "size" }, fill_color: { field: "colour" }, fill_alpha: 0.45,
      line_color: { field: "rim" }, line_width: { field: "width" }, line_dash: { field: "dash" }, nonselection_fill_alpha: 0.45, source });
    hover.renderers = [discs];
    source.selected.change.connect(() => {
      const point = points[source.selected.indices[0]];
      if (point && point.row !== null) location.hash = `#point-${point.row}`;
    });
    holder.replaceChildren();
    Plotting.show(figure, holder);
  };
  const legend = find("#legend"), named = new Map(views.flatMap((v) => v.points).map((p) => [p.model, p.colour]));
  for (const [model, colour] of named.size > COLOURS ? [] : [...named].sort()) {
    const mark = document.createElement("span");
    mark.style.color = colour;
    mark.textContent = "\u25cf";
    legend.append(mark, ` ${model}  `);
  }
  choice.addEventListener("change", draw);
  find("#chart-part").hidden = false;
  draw();
})();
