// The official OpenAI SDK for Node, as its users use it, against the gateway: everything that is answered.

import assert from "node:assert/strict";
import { test } from "node:test";

import { HELLO, VERSION, all, backend, chat, client, header, steered, textOf } from "./world.mjs";

const openai = client();
const WEATHER = {
  type: "function",
  function: { name: "weather", parameters: { type: "object", properties: { text: { type: "string" } } } },
};

test("chat", async () => {
  const answer = await chat(openai, { max_tokens: 5 });
  assert.equal(answer.choices[0].message.content, "Hello from the simulated backend");
  assert.equal(answer.choices[0].finish_reason, "length");
  assert.equal(answer.usage.completion_tokens, 5);
  assert.equal(answer.model, "tiny");
});

test("stream", async () => {
  const chunks = await all(await chat(openai, { max_tokens: 5, stream: true }));
  assert.equal(textOf(chunks), "Hello from the simulated backend");
  assert.equal(chunks.at(-1).choices[0].finish_reason, "length");
  assert.ok(chunks.every((chunk) => chunk.usage === undefined));
});

test("stream with usage", async () => {
  const chunks = await all(await chat(openai, { stream: true, stream_options: { include_usage: true } }));
  assert.ok(chunks.slice(0, -1).every((chunk) => chunk.usage === null));
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.equal(chunks.at(-1).usage.completion_tokens, 16);
});

test("long stream", async () => {
  const chunks = await all(await chat(openai, { stream: true }, { headers: steered({ tokens: 5000 }) }));
  const words = textOf(chunks).split(" ");
  assert.deepEqual([chunks.length, words.length], [5002, 5000]);
  assert.deepEqual(words.slice(0, 24), words.slice(4968, 4992));
});

test("text of more than one byte a character", async () => {
  const messages = [{ role: "user", content: "größer – 日本語 🚀" }];
  const echo = { headers: steered({ echo: 1 }) };
  const answer = await chat(openai, { messages }, echo);
  assert.deepEqual(JSON.parse(answer.choices[0].message.content).messages, messages);
  const chunks = await all(await chat(openai, { messages, stream: true }, echo));
  assert.deepEqual(JSON.parse(textOf(chunks)).messages, messages);
});

test("comments in a stream are nothing to the SDK", async () => {
  const chunks = await all(await chat(openai, { max_tokens: 5, stream: true }, { headers: steered({ comments: 1 }) }));
  assert.equal(textOf(chunks), "Hello from the simulated backend");
});

test("stream helper", async () => {
  const completions = VERSION === 4 ? openai.beta.chat.completions : openai.chat.completions;
  const stream = completions.stream({ model: "tiny", messages: HELLO, sim_tokens: 4 });
  let text = "";
  stream.on("content", (piece) => (text += piece));
  const answer = await stream.finalChatCompletion();
  assert.equal(answer.choices[0].message.content, "Hello from the simulated");
  assert.equal(text, "Hello from the simulated");
});

test("completions", async () => {
  const body = { model: "tiny", prompt: "one two", max_tokens: 2 };
  const answer = await openai.completions.create(body);
  assert.deepEqual([answer.choices[0].text, answer.usage.prompt_tokens], ["Hello from", 2]);
  const chunks = await all(await openai.completions.create({ ...body, stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), "Hello from");
});

test("tool call and its result", async () => {
  const body = { tools: [WEATHER], sim_tokens: 3 };
  const [first] = (await chat(openai, body)).choices;
  assert.deepEqual([first.finish_reason, first.message.content], ["tool_calls", null]);
  const [call] = first.message.tool_calls;
  assert.equal(call.function.name, "weather");
  assert.deepEqual(JSON.parse(call.function.arguments), { text: "Hello from the" });
  const messages = [...HELLO, first.message, { role: "tool", tool_call_id: call.id, content: "sunny" }];
  const [second] = (await chat(openai, { ...body, messages })).choices;
  assert.deepEqual([second.finish_reason, second.message.content], ["stop", "Hello from the"]);
});

test("streamed tool call", async () => {
  const chunks = await all(await chat(openai, { tools: [WEATHER], stream: true, sim_tokens: 14 }));
  const calls = chunks.flatMap((chunk) => chunk.choices[0].delta.tool_calls ?? []);
  assert.deepEqual([calls[0].id, calls[0].function.name], ["chatcmpl-tool-sim", "weather"]);
  const spoken = JSON.parse(calls.map((call) => call.function.arguments ?? "").join("")).text;
  assert.ok(spoken.endsWith("one token –"), spoken);
  assert.equal(chunks.at(-1).choices[0].finish_reason, "tool_calls");
});

test("JSON mode", async () => {
  const body = { response_format: { type: "json_object" }, sim_tokens: 3 };
  const answer = await chat(openai, body);
  assert.deepEqual(JSON.parse(answer.choices[0].message.content), { text: "Hello from the" });
  const chunks = await all(await chat(openai, { ...body, stream: true }));
  assert.deepEqual(JSON.parse(textOf(chunks)), { text: "Hello from the" });
});

test("JSON of a schema", async () => {
  const schema = { type: "object", properties: { text: { type: "string" } }, required: ["text"] };
  const response_format = { type: "json_schema", json_schema: { name: "said", schema } };
  const completions = VERSION === 4 ? openai.beta.chat.completions : openai.chat.completions;
  const answer = await completions.parse({ model: "tiny", messages: HELLO, response_format, sim_tokens: 2 });
  assert.deepEqual(JSON.parse(answer.choices[0].message.content), { text: "Hello from" });
});

test("response and its headers", async () => {
  const headers = { "x-request-id": "mine-1" };
  const { data, response, request_id } = await chat(openai, {}, { headers }).withResponse();
  assert.equal(data.choices[0].message.role, "assistant");
  assert.equal(response.headers.get("x-request-id"), "mine-1");
  assert.deepEqual([request_id, data._request_id], ["mine-1", "mine-1"]);
  assert.ok(Number(response.headers.get("x-obleth-overhead-us")) >= 0);
});

test("raw response of a stream", async () => {
  const response = await chat(openai, { stream: true, max_tokens: 2 }).asResponse();
  assert.equal(header(response.headers, "content-type"), "text/event-stream; charset=utf-8");
  assert.equal(header(response.headers, "x-accel-buffering"), "no");
  const events = (await response.text()).split("\n\n").filter(Boolean);
  assert.equal(events.length, 5);
  assert.equal(events.at(-1), "data: [DONE]");
});

test("embeddings", async () => {
  for (const form of [{}, { encoding_format: "float" }]) {
    const answer = await openai.embeddings.create({ model: "tiny", input: ["one two", "three"], ...form });
    assert.deepEqual(answer.data[1].embedding, [0.5, 1, 1, -1]);
    assert.equal(answer.usage.prompt_tokens, 3);
  }
  await openai.embeddings.create({ model: "tiny", input: "one two" });
  assert.equal(JSON.parse((await backend()).last_request.body).encoding_format, "base64");
  const encoded = await openai.embeddings.create({ model: "tiny", input: "one", encoding_format: "base64" });
  assert.equal(encoded.data[0].embedding, "AAAAPwAAgD8AAAAAAACAvw==");
});

test("models", async () => {
  const ids = (await all(await openai.models.list())).map((model) => model.id);
  assert.deepEqual(ids.sort(), ["org/model", "tiny"]);
  for (const name of ["tiny", "org/model"]) {
    const model = await openai.models.retrieve(name);
    assert.deepEqual([model.id, model.object], [name, "model"]);
  }
});

test("sixty at once", async () => {
  const one = async (_, number) => {
    if (number % 2) return (await chat(openai, { max_tokens: 3 })).choices[0].message.content;
    return textOf(await all(await chat(openai, { max_tokens: 3, stream: true })));
  };
  const said = await Promise.all(Array.from({ length: 60 }, one));
  assert.deepEqual(said, Array(60).fill("Hello from the"));
});
