// Clients that stop waiting: timeouts, aborts, streams that are left, and the ones that have all they want.

import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";

import { OpenAI, all, attempts, backend, chat, client, freshId, leaving, left, metric } from "./world.mjs";
import { served, steered, textOf, until } from "./world.mjs";

const openai = client();
const STALLED = steered({ fault: "stall-before-head" });
// A stream that nobody could read to its end within a test.
const ENDLESS = steered({ tps: 20, tokens: 5000 });
// Milliseconds in which a request has reached the backend, and in which it is answered, also on a busy machine.
const [REACHED, ANSWERED] = [500, 1500];

const error = (promise) => promise.then(() => assert.fail("not rejected"), (error) => error);

for (const stream of [false, true]) {
  test(`a timeout frees the backend, stream: ${stream}`, async () => {
    await leaving(async () => {
      const late = await error(chat(openai, { stream }, { headers: STALLED, timeout: REACHED }));
      assert.equal(late.constructor, OpenAI.APIConnectionTimeoutError, late.stack);
    });
  });

  test(`an abort before the answer frees the backend, stream: ${stream}`, async () => {
    await leaving(async () => {
      const controller = new AbortController();
      const aborted = error(chat(openai, { stream }, { headers: STALLED, signal: controller.signal }));
      await until(async () => (await backend()).active === 1);
      controller.abort();
      assert.equal((await aborted).constructor, OpenAI.APIUserAbortError);
    });
  });
}

test("a try that times out is a client that left", async () => {
  const request = freshId();
  const wishes = steered({ fault: "stall-before-head", "fault-times": 1 });
  const options = { headers: { ...wishes, "x-request-id": request }, timeout: ANSWERED, maxRetries: 2 };
  const before = [await left(), await served()];
  const answer = await chat(openai, { max_tokens: 2 }, options);
  assert.equal(answer.choices[0].message.content, "Hello from");
  assert.equal(await attempts(request), 2);
  await until(async () => (await left()) === before[0] + 1);
  assert.equal(await served(), before[1] + 1);
});

test("the timeout of a stream ends with its head", async () => {
  const headers = steered({ tps: 12, tokens: 25 });
  const chunks = await all(await chat(openai, { stream: true }, { headers, timeout: ANSWERED }));
  assert.equal(textOf(chunks).split(" ").length, 25);
});

const ways = {
  "leaving the loop": async (stream) => {
    for await (const _ of stream) break;
  },
  "the stream's controller": async (stream) => {
    for await (const _ of stream) stream.controller.abort();
  },
  "the request's signal": async (stream, controller) => {
    for await (const _ of stream) controller.abort();
  },
};

for (const [name, leave] of Object.entries(ways)) {
  test(`a stream that is left by ${name} frees the backend`, async () => {
    await leaving(async () => {
      const controller = new AbortController();
      const stream = await chat(openai, { stream: true }, { headers: ENDLESS, signal: controller.signal });
      assert.equal(await metric("obleth_in_flight"), 1);
      await leave(stream, controller);
    });
  });
}

test("a readable stream that is cancelled frees the backend", async () => {
  await leaving(async () => {
    const stream = await chat(openai, { stream: true }, { headers: ENDLESS });
    const reader = stream.toReadableStream().getReader();
    assert.equal((await reader.read()).done, false);
    await reader.cancel();
  });
});

test("a stream helper that is aborted frees the backend", async () => {
  await leaving(async () => {
    const completions = openai.chat.completions.stream ? openai.chat.completions : openai.beta.chat.completions;
    const stream = completions.stream({ model: "tiny", messages: [] }, { headers: ENDLESS });
    await once(stream, "chunk");
    const aborted = error(stream.done());
    stream.abort();
    assert.equal((await aborted).constructor, OpenAI.APIUserAbortError);
  });
});

test("a thousand streams read to their end are served", async () => {
  const before = [await left(), await served()];
  const some = async () => {
    for (let one = 0; one < 100; one += 1) {
      const text = textOf(await all(await chat(openai, { stream: true, max_tokens: 3 })));
      assert.equal(text, "Hello from the");
    }
  };
  await Promise.all(Array.from({ length: 10 }, some));
  await until(async () => (await served()) === before[1] + 1000);
  assert.equal(await left(), before[0]);
  assert.equal(await metric("obleth_in_flight"), 0);
});
