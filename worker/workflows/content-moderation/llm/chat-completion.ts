/**
 * One question to an OpenAI-compatible endpoint, one validated answer. No retries and no timeout of its own: the
 * node's `maxRetries`, `retryDelay` and `timeout` say how often and how long, and `signal` carries the latter.
 *
 * The request has only what every compatible server accepts: no temperature (some models refuse it) and no
 * response format (servers disagree about it).
 */
import { FlowcraftError } from 'flowcraft'
import { z } from 'zod'
import type { LlmConfig } from './llm-config.js'

interface Question<T> {
	readonly instructions: string
	/** Sent as data in a message of its own, so that a post cannot easily give instructions. */
	readonly data: Readonly<Record<string, string>>
	readonly answer: z.ZodType<T>
}

/** Statuses that the same request may get past later. The other 4xx never get better. */
const PASSING_STATUSES = new Set([408, 409, 425, 429])
const MOST_DETAIL_CHARACTERS = 300

const completionSchema = z.object({
	choices: z.array(z.object({ message: z.object({ content: z.string() }) })).min(1),
})
const refusalSchema = z.object({ error: z.object({ message: z.string() }) })

/**
 * @throws FlowcraftError with `isFatal` if the request itself was refused, an Error if another attempt may succeed,
 * and the signal's own reason if it was aborted. Messages never repeat the key or the post.
 */
export async function ask<T>(config: LlmConfig, question: Question<T>, signal?: AbortSignal): Promise<T> {
	const response = await post(config, question, signal)
	const text = await response
		.text()
		.catch((error: unknown) => fail(config, 'broke off its answer', signal, error))
	if (!response.ok) throw refusal(config, response.status, text)
	const completion = completionSchema.safeParse(parseJson(text))
	const content = completion.data?.choices[0]?.message.content
	if (content === undefined)
		return fail(config, 'answered something that is not a chat completion', signal, completion.error)
	const answer = question.answer.safeParse(parseJson(withoutFence(content)))
	if (!answer.success) return fail(config, `gave an invalid verdict (${faultsOf(answer.error)})`, signal)
	return answer.data
}

async function post<T>(config: LlmConfig, question: Question<T>, signal?: AbortSignal): Promise<Response> {
	try {
		return await fetch(`${config.url}/chat/completions`, {
			method: 'POST',
			headers: {
				'content-type': 'application/json',
				...(config.apiKey && { authorization: `Bearer ${config.apiKey}` }),
			},
			body: JSON.stringify({
				model: config.model,
				messages: [
					{
						role: 'system',
						content: `${question.instructions}\nAnswer with one JSON object and nothing else.`,
					},
					{ role: 'user', content: JSON.stringify(question.data) },
				],
			}),
			signal: signal ?? null,
		})
	} catch (error) {
		return fail(config, 'cannot be reached', signal, error)
	}
}

function refusal(config: LlmConfig, status: number, text: string): Error {
	const detail = refusalSchema
		.safeParse(parseJson(text))
		.data?.error.message.slice(0, MOST_DETAIL_CHARACTERS)
	const message = `The moderation LLM at ${config.url} answered with status ${status}${detail ? `: ${detail}` : ''}`
	const isFatal = status >= 400 && status < 500 && !PASSING_STATUSES.has(status)
	return isFatal ? new FlowcraftError(message, { isFatal }) : new Error(message)
}

function fail(config: LlmConfig, what: string, signal?: AbortSignal, cause?: unknown): never {
	signal?.throwIfAborted()
	throw new Error(`The moderation LLM at ${config.url} ${what}`, { cause })
}

/** Many models wrap JSON in a Markdown fence, whatever they are told. */
function withoutFence(content: string): string {
	return /^\s*```(?:json)?\s*\n(.*)\n\s*```\s*$/s.exec(content)?.[1] ?? content
}

/** Undefined if `text` is no JSON: no schema accepts that. */
function parseJson(text: string): unknown {
	try {
		return JSON.parse(text)
	} catch {
		return undefined
	}
}

function faultsOf(error: z.ZodError): string {
	return error.issues
		.map((issue) => [issue.path.join('.'), issue.message].filter(Boolean).join(': '))
		.join('; ')
}
