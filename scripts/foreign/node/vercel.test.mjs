// Vercel's AI SDK on a running fleet, by both of its providers: `PENSTOCK_TEST_URL=... node --test`.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateObject, generateText, stepCountIs, streamObject, streamText, tool } from "ai";
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { z } from "zod";

const baseURL = `${process.env.PENSTOCK_TEST_URL}/v1`;
const compatible = createOpenAICompatible({
  name: "penstock",
  baseURL,
  apiKey: "none",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const openai = createOpenAI({ baseURL, apiKey: "none" });
const providers = {
  "openai-compatible": (name) => compatible(name),
  "openai, chat": (name) => openai.chat(name),
  "openai, responses": (name) => openai.responses(name),
};
const pictures = ["web-chat-phone.png", "web-chat-phone-dark.png"].map((name) =>
  readFileSync(new URL(`../../../docs/images/${name}`, import.meta.url)),
);
const Mood = z.object({ mood: z.enum(["glad", "sad"]) });

for (const [name, model] of Object.entries(providers)) {
  test(`text: ${name}`, async () => {
    const asked = { model: model("demo"), prompt: "What is Penstock?", temperature: 0, maxRetries: 0 };
    const whole = await generateText(asked);
    assert.equal(whole.finishReason, "stop");
    const streamed = streamText(asked);
    let text = "";
    for await (const delta of streamed.textStream) text += delta;
    assert.equal(text, whole.text);
    assert.equal((await streamed.usage).outputTokens, whole.usage.outputTokens);
  });

  test(`several turns: ${name}`, async () => {
    const messages = [{ role: "user", content: "My name is Ada." }];
    const asked = { model: model("demo"), temperature: 0, maxRetries: 0 };
    const first = await generateText({ ...asked, messages });
    messages.push(...first.response.messages, { role: "user", content: "What is my name?" });
    assert.match((await generateText({ ...asked, messages })).text, /Ada/);
  });

  test(`tools: ${name}`, async () => {
    for (const ask of [generateText, streamText]) {
      const cities = [];
      const result = await ask({
        model: model("demo"),
        prompt: "What is the weather in Paris?",
        temperature: 0,
        maxRetries: 0,
        stopWhen: stepCountIs(3),
        tools: {
          get_weather: tool({
            description: "Get the current weather for a city.",
            inputSchema: z.object({ city: z.string().describe("The city") }),
            execute: ({ city }) => {
              cities.push(city);
              return { temperature: 17 };
            },
          }),
        },
      });
      assert.match(await result.text, /17/);
      assert.deepEqual(cities, ["Paris"]);
    }
  });

  test(`images: ${name}`, async () => {
    const texts = [];
    for (const image of [pictures[0], `data:image/png;base64,${pictures[0].toString("base64")}`, pictures[1]]) {
      const content = [{ type: "image", image }, { type: "text", text: "What is it?" }];
      const messages = [{ role: "user", content }];
      const asked = { model: model("tiny-llava"), temperature: 0, maxOutputTokens: 16, maxRetries: 0 };
      const { text, usage } = await generateText({ ...asked, messages });
      assert.ok(usage.inputTokens > 16);
      texts.push(text);
    }
    assert.equal(texts[0], texts[1]);
    assert.notEqual(texts[0], texts[2]);
  });

  test(`objects: ${name}`, async () => {
    const asked = { model: model("tiny-llama"), prompt: "Hello", schema: Mood, maxRetries: 0 };
    const { object } = await generateObject(asked);
    assert.ok(Mood.safeParse(object).success);
    const streamed = streamObject(asked);
    for await (const _ of streamed.partialObjectStream);
    assert.ok(Mood.safeParse(await streamed.object).success);
  });
}

test("embeddings", async () => {
  for (const model of [compatible.textEmbeddingModel("demo"), openai.textEmbeddingModel("demo")]) {
    const { embeddings } = await embedMany({ model, values: ["a dog", "a cat"], maxRetries: 0 });
    assert.equal(embeddings.length, 2);
  }
});

test("completions", async () => {
  const { text, finishReason } = await generateText({
    model: compatible.completionModel("tiny-llama"),
    prompt: "Once upon",
    maxOutputTokens: 4,
    maxRetries: 0,
  });
  assert.ok(text);
  assert.ok(finishReason);
});
