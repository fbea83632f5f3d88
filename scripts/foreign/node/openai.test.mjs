// OpenAI's Node SDK on a running fleet: `PENSTOCK_TEST_URL=... node --test`.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI, { toFile } from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const url = process.env.PENSTOCK_TEST_URL;
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const DEMO = "demo";
const TINY = "tiny-llama";
const hello = [{ role: "user", content: "What is Penstock?" }];
const askWeather = [{ role: "user", content: "What is the weather in Paris?" }];
const Mood = z.object({ mood: z.enum(["glad", "sad"]), age: z.union([z.literal(1), z.literal(2)]) });
const weather = {
  name: "get_weather",
  description: "Get the current weather for a city.",
  parameters: {
    type: "object",
    properties: { city: { type: "string", description: "The city" } },
    required: ["city"],
    additionalProperties: false,
  },
};

async function until(condition) {
  const end = Date.now() + 60_000;
  for (;;) {
    const value = await condition();
    if (value) return value;
    assert.ok(Date.now() < end, "it did not come about within a minute");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

test("models", async () => {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  assert.ok(ids.includes(DEMO));
  assert.equal((await client.models.retrieve(DEMO)).id, DEMO);
});

test("chat, whole and streamed", async () => {
  const whole = await client.chat.completions.create({ model: DEMO, messages: hello, temperature: 0 });
  const stream = await client.chat.completions.create({
    model: DEMO,
    messages: hello,
    temperature: 0,
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = "";
  let usage;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(usage.total_tokens, whole.usage.total_tokens);
});

test("the stream helper", async () => {
  const runner = client.chat.completions.stream({ model: DEMO, messages: hello, temperature: 0 });
  const deltas = [];
  runner.on("content", (delta) => deltas.push(delta));
  const final = await runner.finalChatCompletion();
  assert.equal(deltas.join(""), final.choices[0].message.content);
  assert.equal(await runner.finalContent(), deltas.join(""));
});

test("a stream that is left", async () => {
  const stream = await client.chat.completions.create({
    model: TINY,
    messages: hello,
    stream: true,
    ignore_eos: true,
  });
  let count = 0;
  for await (const _ of stream) if (++count === 3) break;
  assert.equal(count, 3);
  const again = await client.chat.completions.create({ model: TINY, messages: hello, max_tokens: 2 });
  assert.equal(again.usage.completion_tokens <= 2, true);
});

test("parse with zod", async () => {
  const answer = await client.chat.completions.parse({
    model: TINY,
    messages: hello,
    response_format: zodResponseFormat(Mood, "mood"),
    max_tokens: 200,
  });
  assert.ok(Mood.safeParse(answer.choices[0].message.parsed).success);
  const streamed = await client.chat.completions
    .stream({
      model: TINY,
      messages: hello,
      response_format: zodResponseFormat(Mood, "mood"),
      max_tokens: 200,
    })
    .finalChatCompletion();
  assert.ok(Mood.safeParse(streamed.choices[0].message.parsed).success);
});

for (const stream of [false, true]) {
  test(`runTools, ${stream ? "streamed" : "whole"}`, async () => {
    const asked = [];
    const runner = client.chat.completions.runTools({
      model: DEMO,
      messages: askWeather,
      temperature: 0,
      stream,
      tools: [
        {
          type: "function",
          function: {
            ...weather,
            parse: JSON.parse,
            function: ({ city }) => {
              asked.push(city);
              return JSON.stringify({ temperature: 17 });
            },
          },
        },
      ],
    });
    const text = await runner.finalContent();
    assert.deepEqual(asked, ["Paris"]);
    assert.match(text, /17/);
  });
}

test("zodFunction", async () => {
  const answer = await client.chat.completions.parse({
    model: DEMO,
    messages: askWeather,
    temperature: 0,
    tool_choice: "required",
    tools: [
      zodFunction({
        name: "get_weather",
        description: weather.description,
        parameters: z.object({ city: z.string().describe("The city") }),
      }),
    ],
  });
  const call = answer.choices[0].message.tool_calls[0];
  assert.deepEqual(call.function.parsed_arguments, { city: "Paris" });
});

test("completions", async () => {
  const answer = await client.completions.create({ model: TINY, prompt: ["a", "b"], max_tokens: 4, n: 2 });
  assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1, 2, 3]);
  const tokens = await client.completions.create({ model: TINY, prompt: [5, 6], max_tokens: 4, logprobs: 2 });
  assert.equal(tokens.choices[0].logprobs.tokens.length, tokens.usage.completion_tokens);
});

test("embeddings", async () => {
  const one = await client.embeddings.create({ model: DEMO, input: "a dog" });
  const two = await client.embeddings.create({ model: DEMO, input: "a dog", encoding_format: "float" });
  assert.equal(one.data[0].embedding.length, two.data[0].embedding.length);
  one.data[0].embedding.forEach((value, index) => {
    assert.ok(Math.abs(value - two.data[0].embedding[index]) < 1e-4);
  });
});

test("responses", async () => {
  const first = await client.responses.create({ model: DEMO, input: "My name is Ada.", temperature: 0 });
  const second = await client.responses.create({
    model: DEMO,
    input: "What is my name?",
    previous_response_id: first.id,
    temperature: 0,
  });
  assert.match(second.output_text, /Ada/);
  assert.equal((await client.responses.retrieve(second.id)).output_text, second.output_text);
  const items = [];
  for await (const item of client.responses.inputItems.list(second.id)) items.push(item);
  assert.ok(items.length >= 1);
  await client.responses.delete(second.id);
  await assert.rejects(client.responses.retrieve(second.id), OpenAI.NotFoundError);
});

test("responses, streamed, parsed and with tools", async () => {
  const events = [];
  const stream = client.responses
    .stream({ model: DEMO, input: "Hello", temperature: 0 })
    .on("event", (event) => events.push(event));
  const final = await stream.finalResponse();
  assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, index) => index));
  const deltas = events.filter((event) => event.type === "response.output_text.delta");
  assert.equal(deltas.map((event) => event.delta).join(""), final.output_text);

  const parsed = await client.responses.parse({
    model: TINY,
    input: "Hello",
    text: { format: zodTextFormat(Mood, "mood") },
  });
  assert.ok(Mood.safeParse(parsed.output_parsed).success);

  const called = await client.responses.create({
    model: DEMO,
    input: askWeather,
    temperature: 0,
    tools: [{ type: "function", strict: true, ...weather }],
  });
  const call = called.output.find((item) => item.type === "function_call");
  assert.deepEqual(JSON.parse(call.arguments), { city: "Paris" });
});

test("responses in the background", async () => {
  const made = await client.responses.create({ model: DEMO, input: "Hello", background: true, temperature: 0 });
  const done = await until(async () => {
    const now = await client.responses.retrieve(made.id);
    return now.status === "completed" && now;
  });
  const events = [];
  const again = await client.responses.retrieve(made.id, { stream: true, starting_after: 2 });
  for await (const event of again) events.push(event);
  assert.equal(events[0].sequence_number, 3);
  assert.equal(events.at(-1).response.output_text ?? done.output_text, done.output_text);
});

test("files and batches", async () => {
  const lines = [1, 2, 3].map((seed) =>
    JSON.stringify({
      custom_id: `line-${seed}`,
      method: "POST",
      url: "/v1/chat/completions",
      body: { model: TINY, messages: hello, max_tokens: 4, seed },
    }),
  );
  const file = await client.files.create({
    file: await toFile(Buffer.from(lines.join("\n")), "in.jsonl"),
    purpose: "batch",
  });
  const batch = await client.batches.create({
    input_file_id: file.id,
    endpoint: "/v1/chat/completions",
    completion_window: "24h",
  });
  const done = await until(async () => {
    const now = await client.batches.retrieve(batch.id);
    return now.status === "completed" && now;
  });
  assert.equal(done.request_counts.completed, 3);
  const output = await (await client.files.content(done.output_file_id)).text();
  assert.equal(output.trim().split("\n").length, 3);
  for await (const one of client.files.list({ limit: 1 })) assert.ok(one.id);
  assert.ok((await client.files.delete(file.id)).deleted);
});

test("errors", async () => {
  await assert.rejects(
    client.chat.completions.create({ model: "none", messages: hello }),
    (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found" && !!error.requestID,
  );
  await assert.rejects(
    client.chat.completions.create({ model: DEMO, messages: hello, temperature: 3 }),
    (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature",
  );
  const { response, request_id } = await client.chat.completions
    .create({ model: DEMO, messages: hello, max_tokens: 2 }, { headers: { "x-request-id": "req-node" } })
    .withResponse();
  assert.equal(request_id, "req-node");
  assert.equal(response.headers.get("x-request-id"), "req-node");
});

test("abort", async () => {
  const controller = new AbortController();
  const asking = client.chat.completions.create(
    { model: TINY, messages: hello, ignore_eos: true },
    { signal: controller.signal },
  );
  setTimeout(() => controller.abort(), 100);
  await assert.rejects(asking, OpenAI.APIUserAbortError);
});

