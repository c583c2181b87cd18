// Where everything of a plan graph goes; pure. Data flows downward: the operators that read are at the top of their stage, the one that
// writes is at the bottom, and a stage lies below the stages that it reads.

export const NODE = { width: 218, height: 50, gapX: 18, gapY: 18 };
const STAGE = { pad: 16, head: 34, gapX: 36, gapY: 54 };

/// query: QueryDetail. Answers {width, height, stages: [{stage, x, y, width, height, nodes, links}], edges: [{from, to, rows, x1, y1, x2, y2}]}.
export function layout(query) {
  const boxes = new Map(query.stages.filter((stage) => stage.operators).map((stage) => [stage.stage_id, { stage, ...stageBox(stage) }]));
  const edges = query.edges.filter((edge) => boxes.has(edge.from) && boxes.has(edge.to));
  const layers = layersOf(boxes, edges);
  const order = orderOf(boxes, edges);
  let y = 0;
  let width = 0;
  layers.forEach((ids) => {
    const row = ids.map((id) => boxes.get(id));
    // Under the middle of what feeds it, as far as the neighbours leave room.
    const wish = (box) => {
      const feeds = edges.filter((edge) => edge.to === box.stage.stage_id).map((edge) => boxes.get(edge.from)).filter((feed) => feed.x !== undefined);
      return feeds.length ? feeds.reduce((sum, feed) => sum + feed.x + feed.width / 2, 0) / feeds.length - box.width / 2 : null;
    };
    row.sort((a, b) => order.get(a.stage.stage_id) - order.get(b.stage.stage_id));
    let x = 0;
    for (const box of row) {
      box.x = Math.max(x, wish(box) ?? x);
      box.y = y;
      x = box.x + box.width + STAGE.gapX;
      width = Math.max(width, box.x + box.width);
    }
    y += Math.max(...row.map((box) => box.height)) + STAGE.gapY;
  });
  const left = Math.min(0, ...[...boxes.values()].map((box) => box.x));
  for (const box of boxes.values()) box.x -= left;
  return { width: width - left, height: Math.max(0, y - STAGE.gapY), stages: [...boxes.values()], edges: edges.flatMap((edge) => edgeLines(edge, boxes)) };
}

// Longest path from the sources; a stage that nothing reads yet stays at the top. Cycles cannot be, but are survived.
function layersOf(boxes, edges) {
  const depth = new Map([...boxes.keys()].map((id) => [id, 0]));
  for (let round = 0, moved = true; moved && round < boxes.size; round += 1) {
    moved = false;
    for (const { from, to } of edges) {
      if (depth.get(to) < depth.get(from) + 1) { depth.set(to, depth.get(from) + 1); moved = true; }
    }
  }
  // A source is drawn just above its first reader, not at the very top.
  for (const id of boxes.keys()) {
    if (edges.some((edge) => edge.to === id)) continue;
    const readers = edges.filter((edge) => edge.from === id).map((edge) => depth.get(edge.to));
    if (readers.length) depth.set(id, Math.min(...readers) - 1);
  }
  const layers = [];
  for (const id of [...boxes.keys()].sort((a, b) => a - b)) (layers[depth.get(id)] ||= []).push(id);
  return layers.filter(Boolean);
}

// From left to right as their readers stand in the stages below: walks up from the last stages. Keeps edges from crossing where it can.
function orderOf(boxes, edges) {
  const order = new Map();
  const visit = (id) => {
    if (order.has(id)) return;
    order.set(id, order.size);
    const readers = boxes.get(id).nodes.filter((own) => boxes.has(own.node.reads_stage)).sort((a, b) => a.x - b.x || a.y - b.y);
    for (const reader of readers) visit(reader.node.reads_stage);
  };
  for (const id of [...boxes.keys()].sort((a, b) => b - a)) if (!edges.some((edge) => edge.from === id)) visit(id);
  for (const id of boxes.keys()) visit(id);
  return order;
}

function stageBox(stage) {
  const nodes = [];
  const links = [];
  let lowest = 0;
  const place = (node, depth, left) => {
    lowest = Math.max(lowest, depth);
    let x = left;
    const below = node.children.map((child) => {
      const placed = place(child, depth + 1, x);
      x = placed.right + NODE.gapX;
      return placed;
    });
    const middle = below.length ? (below[0].node.x + below[below.length - 1].node.x) / 2 : left;
    const own = { node, depth, x: Math.max(left, middle) };
    nodes.push(own);
    for (const child of below) links.push({ from: child.node, to: own });
    return { node: own, right: Math.max(own.x + NODE.width, ...below.map((child) => child.right)) };
  };
  const { right } = place(stage.operators, 0, 0);
  for (const own of nodes) {
    own.x += STAGE.pad;
    own.y = STAGE.head + STAGE.pad + (lowest - own.depth) * (NODE.height + NODE.gapY);
  }
  return { nodes, links, width: Math.max(right, NODE.width) + 2 * STAGE.pad, height: STAGE.head + 2 * STAGE.pad + (lowest + 1) * NODE.height + lowest * NODE.gapY };
}

// From the writer at the bottom of one stage to every operator of the other that reads it.
function edgeLines(edge, boxes) {
  const [from, to] = [boxes.get(edge.from), boxes.get(edge.to)];
  const writer = from.nodes.find((own) => own.depth === 0);
  const readers = to.nodes.filter((own) => own.node.reads_stage === edge.from);
  return (readers.length ? readers : [to.nodes[to.nodes.length - 1]]).map((reader) => ({
    ...edge,
    x1: from.x + writer.x + NODE.width / 2, y1: from.y + from.height,
    x2: to.x + reader.x + NODE.width / 2, y2: to.y + reader.y,
    top: to.y,
  }));
}
