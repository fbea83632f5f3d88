// Ollama's JavaScript client on a running fleet: `PENSTOCK_TEST_URL=... node --test`.
import { Ollama } from "ollama";
import assert from "node:assert/strict";
import { test } from "node:test";

const client = new Ollama({ host: process.env.PENSTOCK_TEST_URL });
const messages = [{ role: "user", content: "What is Penstock?" }];
const common = { model: "demo", options: { temperature: 0, num_predict: 100 } };
const tools = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "Get the current weather for a city.",
      parameters: {
        type: "object",
        properties: { city: { type: "string", description: "The city" } },
        required: ["city"],
      },
    },
  },
];

test("models are listed and shown", async () => {
  const { models } = await client.list();
  assert.ok(models.some((model) => model.name === "demo"));
  const shown = await client.show({ model: "demo" });
  assert.ok(shown.capabilities.includes("tools"));
});

test("a chat, whole and streamed", async () => {
  const whole = await client.chat({ ...common, messages });
  const parts = [];
  let last;
  for await (const part of await client.chat({ ...common, messages, stream: true })) {
    parts.push(part.message.content);
    last = part;
  }
  assert.equal(parts.join(""), whole.message.content);
  assert.equal(last.done, true);
  assert.equal(last.eval_count, whole.eval_count);
});

test("a tool call and its result", async () => {
  const asked = [{ role: "user", content: "What is the weather in Paris?" }];
  const first = await client.chat({ ...common, messages: asked, tools });
  const [call] = first.message.tool_calls;
  assert.deepEqual(call.function, { ...call.function, name: "get_weather", arguments: { city: "Paris" } });
  const result = { role: "tool", tool_name: "get_weather", content: '{"temperature": 17}' };
  const second = await client.chat({ ...common, messages: [...asked, first.message, result], tools });
  assert.match(second.message.content, /17/);
});

test("a prompt, whole and streamed", async () => {
  const whole = await client.generate({ ...common, prompt: "Hello!" });
  const parts = [];
  for await (const part of await client.generate({ ...common, prompt: "Hello!", stream: true })) {
    parts.push(part.response);
  }
  assert.ok(whole.response.length > 0);
  assert.equal(parts.join(""), whole.response);
});
