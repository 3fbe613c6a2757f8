// Ollama's client for JavaScript: the gateway's address and the names of checks -> each check's outcome as one line of JSON.

import { createInterface } from "node:readline";
import { Ollama } from "ollama";

const [address, ...names] = process.argv.slice(2);
const client = new Ollama({ host: address });
// What clients set and the gateway owns: a context of their own, and a model that stays for ever.
const SAME = { model: "mai", keep_alive: -1, options: { num_predict: 12, num_ctx: 512 } };
const CHAT = { ...SAME, messages: [{ role: "user", content: "Tell me about the sea." }] };
const TEXT = { ...SAME, prompt: "Tell me about the sea." };

const whole = (text, end) => ({ text, finish: end.done_reason, tokens: end.eval_count });

async function joined(parts, textOf) {
  let [text, end, count] = ["", null, 0];
  for await (const part of parts) {
    text += textOf(part);
    end = part;
    count += 1;
  }
  return { ...whole(text, end), chunks: count };
}

// The error that a question ends in; whatever is not of the client's own type, which it does not export, ends this script.
function refusal(error) {
  if (error.name !== "ResponseError") throw error;
  return { error: error.name, status: error.status_code, message: error.message };
}

async function refused(asked) {
  try {
    return { answered: await asked };
  } catch (error) {
    return refusal(error);
  }
}

const checks = {
  models: async () => ({ ids: (await client.list()).models.map((model) => model.model) }),
  async show() {
    const shown = await client.show({ model: "mai" });
    return { capabilities: shown.capabilities, context: shown.model_info["llama.context_length"] };
  },
  ps: async () => ({ ids: (await client.ps()).models.map((model) => model.model) }),
  version: () => client.version(),
  async chat() {
    const reply = await client.chat(CHAT);
    return { ...whole(reply.message.content, reply), role: reply.message.role };
  },
  chat_streamed: async () => joined(await client.chat({ ...CHAT, stream: true }), (part) => part.message.content),
  async generate() {
    const reply = await client.generate(TEXT);
    return whole(reply.response, reply);
  },
  generate_streamed: async () => joined(await client.generate({ ...TEXT, stream: true }), (part) => part.response),
  embedding: () => refused(client.embed({ model: "mai", input: "The sea" })),
  unknown_model: () => refused(client.chat({ ...CHAT, model: "nobody" })),
  unknown_model_streamed: () => refused(client.chat({ ...CHAT, model: "nobody", stream: true })),
  closed_route: () => refused(client.pull({ model: "mai" })),
  // Begins when it is told to, and says how long it waited for the first part, or what it was refused with.
  async held() {
    console.log(JSON.stringify({ check: "ready" }));
    const input = createInterface({ input: process.stdin });
    await new Promise((resolve) => input.once("line", resolve));
    input.close();
    const asked = performance.now();
    let waited;
    try {
      const reply = await joined(await client.chat({ ...CHAT, stream: true }), (part) => {
        waited ??= (performance.now() - asked) / 1000;
        return part.message.content;
      });
      return { ...reply, waited };
    } catch (error) {
      return refusal(error);
    }
  },
};

for (const name of names) console.log(JSON.stringify({ ...(await checks[name]()), check: name }));
