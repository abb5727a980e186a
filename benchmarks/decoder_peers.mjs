// Tokens per second of llama.cpp on one thread, through node-llama-cpp: node decoder_peers.mjs MODULES MODEL.gguf COUNT
// Prints one JSON line: CPU seconds and wall seconds of COUNT tokens after the first, and the tokens.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [, , modules, path, words] = process.argv;
const entry = createRequire(modules + "/").resolve("node-llama-cpp");
const { getLlama, LlamaLogLevel } = await import(pathToFileURL(entry));
const llama = await getLlama({ gpu: false, maxThreads: 1, build: "never", logLevel: LlamaLogLevel.error });
const model = await llama.loadModel({ modelPath: path });
const count = Number(words);
const context = await model.createContext({ contextSize: count + 8, threads: 1 });
const tokens = [];
let wall = 0n, used = process.cpuUsage();
for await (const token of context.getSequence().evaluate([1], { temperature: 0, yieldEogToken: true })) {
  if (!tokens.length) [wall, used] = [process.hrtime.bigint(), process.cpuUsage()];
  tokens.push(token);
  if (tokens.length > count) break;
}
wall = process.hrtime.bigint() - wall;
used = process.cpuUsage(used);
console.log(JSON.stringify({ wall: Number(wall) / 1e9, cpu: (used.user + used.system) / 1e6, tokens }));
process.exit(0);
