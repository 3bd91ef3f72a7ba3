// npm's openai, @anthropic-ai/sdk and ollama against a running nib serve: chat, streams, embeddings, errors,
// cancellation. NIB_URL says where. Prints one line a check; exits 1 when one failed.
import assert from 'node:assert/strict';
import OpenAI from 'openai';
import Anthropic from '@anthropic-ai/sdk';
import { Ollama } from 'ollama';

const url = process.env.NIB_URL;
const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: url, apiKey: 'none', maxRetries: 0 });
const ollama = new Ollama({ host: url });
const messages = [{ role: 'user', content: 'Once upon a time' }];
const greedy = { model: 'any', messages, temperature: 0, max_tokens: 16 };

let failed = 0, n = 0;
async function check(name, run) {
  n++;
  try {
    await run();
    console.log(`ok ${n} ${name}`);
  } catch (e) {
    failed++;
    console.log(`not ok ${n} ${name}\n  ${String(e.stack).replaceAll('\n', '\n  ')}`);
  }
}
async function metric(name) {
  const text = await (await fetch(`${url}/metrics`)).text();
  return Number(text.match(new RegExp(`^nib_${name}(?:{[^}]*})? (.*)$`, 'm'))[1]);
}
async function idle() {
  for (let i = 0; i < 200; i++) {
    if ((await metric('requests_processing')) + (await metric('requests_deferred')) === 0) return;
    await new Promise(r => setTimeout(r, 20));
  }
  throw new Error('a generation still runs');
}

// ---- openai ----
let text;
await check('openai: models', async () => {
  const list = await openai.models.list();
  assert.equal(list.data.length, 1);
  assert.equal((await openai.models.retrieve(list.data[0].id)).id, list.data[0].id);
});
await check('openai: chat', async () => {
  const r = await openai.chat.completions.create(greedy);
  text = r.choices[0].message.content;
  assert.ok(text.length > 0);
  assert.equal(r.choices[0].finish_reason, 'length');
  assert.equal(r.usage.completion_tokens, 16);
});
await check('openai: chat streamed says the same', async () => {
  let streamed = '', usage;
  const s = await openai.chat.completions.create(
    { ...greedy, stream: true, stream_options: { include_usage: true } });
  for await (const c of s) {
    streamed += c.choices[0]?.delta?.content ?? '';
    usage = c.usage ?? usage;
  }
  assert.equal(streamed, text);
  assert.equal(usage.completion_tokens, 16);
});
await check('openai: stream helper', async () => {
  const r = await openai.chat.completions.stream({ ...greedy }).finalChatCompletion();
  assert.equal(r.choices[0].message.content, text);
});
await check('openai: n, seed, stop, logprobs', async () => {
  const q = { ...greedy, n: 2, seed: 7, temperature: 1, logprobs: true, top_logprobs: 2, stop: ['zzz'] };
  const a = await openai.chat.completions.create(q), b = await openai.chat.completions.create(q);
  assert.equal(a.choices.length, 2);
  assert.deepEqual(a.choices, b.choices);
  assert.equal(a.choices[0].logprobs.content[0].top_logprobs.length, 2);
});
await check('openai: completions', async () => {
  const r = await openai.completions.create({ model: 'any', prompt: 'Once upon', max_tokens: 4, temperature: 0 });
  assert.ok(r.choices[0].text.length > 0);
  const many = await openai.completions.create(
    { model: 'any', prompt: ['Once upon', 'The little'], n: 2, max_tokens: 4, temperature: 0, logprobs: 1 });
  assert.equal(many.choices.length, 4);
  assert.equal(many.choices[1].text, r.choices[0].text);
  assert.equal(many.choices[3].logprobs.text_offset.length, 4);
});
await check('openai: embeddings', async () => {
  const r = await openai.embeddings.create({ model: 'any', input: ['a cat', 'a dog'] });
  const f = await openai.embeddings.create({ model: 'any', input: 'a cat', encoding_format: 'float' });
  assert.equal(r.data.length, 2);
  const v = r.data[0].embedding;
  assert.ok(Math.abs(v.reduce((s, x) => s + x * x, 0) - 1) < 1e-4);
  assert.ok(v.every((x, i) => Math.abs(x - f.data[0].embedding[i]) < 1e-6));
});
await check('openai: responses go on from one another', async () => {
  const a = await openai.responses.create({ model: 'any', input: 'Hello', temperature: 0, max_output_tokens: 8 });
  assert.ok(a.output_text.length > 0);
  const b = await openai.responses.create(
    { model: 'any', input: 'More', previous_response_id: a.id, temperature: 0, max_output_tokens: 4 });
  assert.ok(b.usage.input_tokens > a.usage.input_tokens);
  assert.equal((await openai.responses.retrieve(a.id)).output_text ?? a.output_text, a.output_text);
  const items = [];
  for await (const item of openai.responses.inputItems.list(b.id)) items.push(item.content[0].text);
  assert.deepEqual(items, ['More']);
  await openai.responses.delete(a.id);
  await assert.rejects(openai.responses.retrieve(a.id), OpenAI.NotFoundError);
});
await check('openai: responses streamed', async () => {
  const s = openai.responses.stream({ model: 'any', input: 'Hello', temperature: 0, max_output_tokens: 8 });
  let said = '';
  for await (const e of s) if (e.type === 'response.output_text.delta') said += e.delta;
  const r = await s.finalResponse();
  assert.equal(r.output_text, said);
  assert.equal(r.status, 'incomplete');
});
await check('openai: errors are typed', async () => {
  await assert.rejects(openai.chat.completions.create({ ...greedy, tools: [{ type: 'function', function: { name: 'f' } }] }),
    e => e instanceof OpenAI.BadRequestError && e.param === 'tools');
  await assert.rejects(openai.chat.completions.create({ ...greedy, messages: [{ role: 'user', content: 'x '.repeat(5000) }] }),
    e => e instanceof OpenAI.BadRequestError && e.code === 'context_length_exceeded');
  await assert.rejects(openai.models.retrieve('other'), OpenAI.NotFoundError);
});
await check('openai: cancellation', async () => {
  await idle();
  const before = await metric('requests_cancelled_total');
  const s = await openai.chat.completions.create({ ...greedy, max_tokens: 400, ignore_eos: true, stream: true });
  for await (const c of s) if (c.choices[0]?.delta?.content) break;
  s.controller.abort();
  await idle();
  const abort = new AbortController();
  const p = openai.chat.completions.create({ ...greedy, max_tokens: 400, ignore_eos: true }, { signal: abort.signal });
  setTimeout(() => abort.abort(), 5);
  await p.catch(() => {});
  await idle();
  assert.ok((await metric('requests_cancelled_total')) >= before);
});

// ---- anthropic ----
const ask = { model: 'any', max_tokens: 16, temperature: 0, messages };
await check('anthropic: messages', async () => {
  const r = await anthropic.messages.create({ ...ask, system: 'Be brief' });
  assert.equal(r.content[0].type, 'text');
  assert.equal(r.stop_reason, 'max_tokens');
  assert.equal(r.usage.output_tokens, 16);
});
await check('anthropic: streamed says the same', async () => {
  const r = await anthropic.messages.create(ask);
  const s = anthropic.messages.stream(ask);
  let said = '';
  s.on('text', t => { said += t; });
  const last = await s.finalMessage();
  assert.equal(said, r.content[0].text);
  assert.equal(last.content[0].text, said);
  assert.equal(last.usage.output_tokens, r.usage.output_tokens);
});
await check('anthropic: count_tokens', async () => {
  const r = await anthropic.messages.countTokens({ model: 'any', messages });
  assert.ok(r.input_tokens > 3);
});
await check('anthropic: errors are typed', async () => {
  await assert.rejects(anthropic.messages.create({ ...ask, max_tokens: 0 }), Anthropic.BadRequestError);
  await assert.rejects(anthropic.messages.create({ ...ask, tools: [{ name: 'f', input_schema: { type: 'object' } }] }),
    e => e instanceof Anthropic.BadRequestError && /tools/.test(e.message));
});
await check('anthropic: cancellation', async () => {
  const s = anthropic.messages.stream({ ...ask, max_tokens: 400 });
  s.on('text', () => s.abort());
  await s.done().catch(() => {});
  await idle();
});

// ---- ollama ----
const options = { temperature: 0, num_predict: 16 };
await check('ollama: chat, whole and streamed', async () => {
  const r = await ollama.chat({ model: 'any', messages, options });
  assert.equal(r.done_reason, 'length');
  assert.equal(r.message.content, text);
  let said = '';
  for await (const part of await ollama.chat({ model: 'any', messages, options, stream: true }))
    said += part.message.content;
  assert.equal(said, text);
});
await check('ollama: generate', async () => {
  const r = await ollama.generate({ model: 'any', prompt: 'Once upon', raw: true, options });
  assert.ok(r.response.length > 0 && r.eval_count === 16);
});
await check('ollama: embed', async () => {
  const r = await ollama.embed({ model: 'any', input: ['a', 'b'] });
  assert.equal(r.embeddings.length, 2);
});
await check('ollama: list, show, ps, version', async () => {
  const { models } = await ollama.list();
  assert.equal(models.length, 1);
  assert.equal((await ollama.show({ model: models[0].name })).details.format, 'gguf');
  assert.equal((await ollama.ps()).models.length, 1);
  assert.ok((await ollama.version()).version);
});
await check('ollama: errors', async () => {
  await assert.rejects(ollama.chat({ model: 'any', messages, format: 'json' }), /format/);
});
await check('ollama: cancellation', async () => {
  const s = await ollama.chat({ model: 'any', messages, options: { num_predict: 400 }, stream: true });
  try {
    for await (const part of s) { void part; s.abort(); }
  } catch (e) { assert.equal(e.name, 'AbortError'); }
  await idle();
});

console.log(`1..${n}`);
console.log(failed ? `# ${failed} failed` : '# all passed');
process.exit(failed ? 1 : 0);
