// Anthropic's Node SDK on a running fleet: `PENSTOCK_TEST_URL=... node --test`.
import Anthropic from "@anthropic-ai/sdk";
import assert from "node:assert/strict";
import { test } from "node:test";

const client = new Anthropic({ baseURL: process.env.PENSTOCK_TEST_URL, apiKey: "none", maxRetries: 0 });
const hello = [{ role: "user", content: "What is Penstock?" }];
const tools = [
  {
    name: "get_weather",
    description: "Get the current weather for a city.",
    input_schema: {
      type: "object",
      properties: { city: { type: "string", description: "The city" } },
      required: ["city"],
    },
  },
];
const common = { model: "demo", max_tokens: 100, temperature: 0 };

test("a message, whole and streamed", async () => {
  const whole = await client.messages.create({ ...common, messages: hello });
  const stream = client.messages.stream({ ...common, messages: hello });
  const deltas = [];
  stream.on("text", (delta) => deltas.push(delta));
  const final = await stream.finalMessage();
  assert.equal(deltas.join(""), whole.content[0].text);
  assert.equal(final.content[0].text, whole.content[0].text);
  assert.equal(final.usage.output_tokens, whole.usage.output_tokens);
  assert.equal(final.stop_reason, "end_turn");
});

test("tools", async () => {
  const messages = [{ role: "user", content: "What is the weather in Paris?" }];
  const first = await client.messages.stream({ ...common, messages, tools }).finalMessage();
  assert.equal(first.stop_reason, "tool_use");
  const call = first.content.find((block) => block.type === "tool_use");
  assert.deepEqual(call.input, { city: "Paris" });
  const result = { type: "tool_result", tool_use_id: call.id, content: '{"temperature": 17}' };
  const second = await client.messages.create({
    ...common,
    tools,
    messages: [
      ...messages,
      { role: "assistant", content: first.content },
      { role: "user", content: [result] },
    ],
  });
  assert.match(second.content[0].text, /17/);
});

test("counting, models and errors", async () => {
  const { input_tokens } = await client.messages.countTokens({ model: "demo", messages: hello });
  const message = await client.messages.create({ ...common, messages: hello });
  const { usage } = message;
  assert.equal(usage.input_tokens + (usage.cache_read_input_tokens ?? 0), input_tokens);
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  assert.ok(ids.includes("demo"));
  await assert.rejects(
    client.messages.create({ ...common, model: "none", messages: hello }),
    (error) => error instanceof Anthropic.NotFoundError && !!error.requestID,
  );
  await assert.rejects(
    client.messages.create({ ...common, max_tokens: 0, messages: hello }),
    Anthropic.BadRequestError,
  );
});
