// Server-sent events of an answer, from either of two places, as the same few updates:
//   {kind: "text", text, id, tokens}   id is null if the stream cannot be resumed from there
//   {kind: "end", reason, usage}       usage may come in an "end" of its own
//   {kind: "failed", code, message}
// The stream's end without "end" or "failed" means that the connection was lost.

export async function* frames(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let buffer = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      buffer += decoder.decode(value, { stream: true });
      let end;
      while ((end = buffer.indexOf("\n\n")) >= 0) {
        const frame = parse(buffer.slice(0, end));
        buffer = buffer.slice(end + 2);
        if (frame) yield frame;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(text) {
  let id = null;
  let event = "";
  const lines = [];
  for (const line of text.split("\n")) {
    if (line.startsWith("data:")) lines.push(line.slice(line[5] === " " ? 6 : 5));
    else if (line.startsWith("id:")) id = line.slice(3).trim(); // an index and a digest
    else if (line.startsWith("event:")) event = line.slice(6).trim();
  }
  return lines.length ? { id, event, data: lines.join("\n") } : null;
}

// The number of an event, which begins its id.
export function indexOf(id) {
  return parseInt(id, 10);
}

export function* updatesOf({ id, event, data }) {
  if (data === "[DONE]") return;
  const body = JSON.parse(data);
  if (body.error) {
    yield { kind: "failed", code: body.error.code, message: body.error.message };
  } else if (event) {
    yield* ofJob(id, event, body);
  } else {
    yield* ofCompletion(id, body);
  }
}

// GET /v1/jobs/{id}/events
function* ofJob(id, event, body) {
  if (event === "tokens") {
    yield { kind: "text", text: body.text ?? "", id, tokens: indexOf(id) + body.token_ids.length };
  } else if (event === "finished") {
    if (body.text) yield { kind: "text", text: body.text, id: null };
    yield { kind: "end", reason: body.reason, usage: body.usage };
  } else {
    yield { kind: "failed", code: body.code, message: body.message };
  }
}

// POST /v1/chat/completions
function* ofCompletion(id, body) {
  const choice = body.choices?.[0];
  const text = choice?.delta?.content;
  if (text) yield { kind: "text", text, id, tokens: id === null ? undefined : indexOf(id) + 1 };
  if (choice?.finish_reason) yield { kind: "end", reason: choice.finish_reason };
  if (body.usage) yield { kind: "end", usage: body.usage };
}
