// JavaScript clients, unmodified: `node client_journeys.mjs openai|ai URL`. Prints one JSON object.
import { z } from 'zod';

const [client, url] = process.argv.slice(2);
const baseURL = `${url}/v1`;
const City = z.object({ name: z.enum(['Oslo', 'Rome']), population: z.number().int() });
const Where = z.object({ city: z.enum(['Oslo', 'Rome']) });

async function openai() {
	const { default: OpenAI } = await import('openai');
	const { zodResponseFormat } = await import('openai/helpers/zod');
	const api = new OpenAI({ baseURL, apiKey: 'any', maxRetries: 0 });
	const fixed = { model: 'mixture', temperature: 0 };
	const said = (content) => [{ role: 'user', content }];
	const hello = await api.chat.completions.create({ ...fixed, messages: said('hello') });
	let streamed = '';
	for await (const chunk of await api.chat.completions.create({ ...fixed, messages: said('hello'), stream: true }))
		streamed += chunk.choices[0]?.delta?.content ?? '';
	const tool = {
		type: 'function',
		function: {
			name: 'get_weather',
			description: 'The weather of a city.',
			parse: JSON.parse,
			parameters: z.toJSONSchema(Where),
			function: ({ city }) => `it rains in ${city}`,
		},
	};
	const called = [];
	const runner = api.chat.completions.runTools({ ...fixed, messages: said('weather?'), tools: [tool] });
	runner.on('functionToolCall', (call) => called.push([call.name, JSON.parse(call.arguments)]));
	const after = await runner.finalContent();
	const streamedCall = [];
	const running = api.chat.completions.runTools({ ...fixed, messages: said('weather?'), tools: [tool], stream: true });
	running.on('functionToolCall', (call) => streamedCall.push([call.name, JSON.parse(call.arguments)]));
	await running.finalContent();
	const parsed = await api.chat.completions.parse({
		...fixed,
		messages: said('json'),
		response_format: zodResponseFormat(City, 'city'),
	});
	const response = await api.responses.create({ ...fixed, input: 'hello' });
	const events = api.responses.stream({ ...fixed, input: 'hello' });
	return {
		hello: hello.choices[0].message.content,
		tokens: hello.usage.completion_tokens,
		streamed,
		called,
		'streamed call': streamedCall,
		after,
		city: parsed.choices[0].message.parsed,
		responses: response.output_text,
		'streamed response': (await events.finalResponse()).output_text,
		completed: (await api.completions.create({ ...fixed, prompt: 'hello', max_tokens: 4 })).choices[0].text,
	};
}

async function ai() {
	const { generateObject, generateText, stepCountIs, streamText, tool } = await import('ai');
	const { createOpenAICompatible } = await import('@ai-sdk/openai-compatible');
	const { createOpenAI } = await import('@ai-sdk/openai');
	const compatible = createOpenAICompatible({
		name: 'moesubnet',
		baseURL,
		apiKey: 'any',
		supportsStructuredOutputs: true,
		includeUsage: true,
	});
	const model = compatible.chatModel('mixture');
	const fixed = { model, temperature: 0, maxRetries: 0 };
	const hello = await generateText({ ...fixed, prompt: 'hello' });
	let streamed = '';
	for await (const piece of streamText({ ...fixed, prompt: 'hello' }).textStream) streamed += piece;
	const tools = {
		get_weather: tool({
			description: 'The weather of a city.',
			inputSchema: Where,
			execute: async ({ city }) => `it rains in ${city}`,
		}),
	};
	const loop = { ...fixed, prompt: 'weather?', tools, stopWhen: stepCountIs(3) };
	const run = await generateText(loop);
	const calls = (steps) => steps.flatMap((step) => step.toolCalls).map((call) => [call.toolName, call.input]);
	const running = streamText(loop);
	await running.consumeStream();
	const object = await generateObject({ ...fixed, prompt: 'json', schema: City });
	const response = await generateText({ ...fixed, model: createOpenAI({ baseURL, apiKey: 'any' })('mixture'), prompt: 'hello' });
	const response_loop = await generateText({ ...loop, model: createOpenAI({ baseURL, apiKey: 'any' })('mixture') });
	return {
		hello: hello.text,
		tokens: hello.usage.outputTokens,
		streamed,
		called: calls(run.steps),
		'streamed call': calls(await running.steps),
		after: run.text,
		city: object.object,
		responses: response.text,
		'after a response': response_loop.text,
		completed: (await generateText({ ...fixed, model: compatible.completionModel('mixture'), prompt: 'hello', maxOutputTokens: 4 })).text,
	};
}

console.log(JSON.stringify(await { openai, ai }[client]()));
