/**
 * Starts runs over HTTP and waits for their end: what `npm run client` and `npm run demo` share. Survives a server
 * that restarts meanwhile: what may have been lost on the way is sent again until the caller's signal says stop,
 * which an idempotency key makes safe for starts.
 */
import { setTimeout as sleepFor } from 'node:timers/promises'
import { z } from 'zod'
import { withJitter } from '../src/loop.js'

const MIN_BACKOFF_MS = 100
const MAX_BACKOFF_MS = 5000
/** Nothing has answered at all for so long: it is not restarting, it was never started. */
const UNANSWERED_MS = 5000
/** How long the server may hold an answer back, waiting for the end of the run. */
const LONG_POLL_SECONDS = 20
/** Beyond what the server was asked to wait. A connection that stays silent for longer is given up and retried. */
const ANSWER_TIMEOUT_MS = 15_000
const TOO_MANY_REQUESTS = 429
const NOT_AN_API = 'is this a flowcraft-outbox server?'

const startedSchema = z.object({ runId: z.string(), status: z.string() })

const runSchema = z.looseObject({
	runId: z.string(),
	status: z.enum(['running', 'awaiting', 'paused', 'completed', 'failed', 'cancelled']),
	result: z.looseObject({ context: z.record(z.string(), z.unknown()) }).nullish(),
	reason: z.string().nullish(),
	errors: z.array(z.looseObject({ nodeId: z.string().nullish(), message: z.string() })).nullish(),
	awaiting: z.array(z.looseObject({ nodeId: z.string(), reason: z.string().nullish() })).nullish(),
})
/** What `GET /runs/:id` answers, fields that are not named here included. */
export type Run = z.infer<typeof runSchema>

const problemSchema = z.object({ title: z.string().optional(), detail: z.string().optional() })

interface StartRequest {
	readonly blueprint: string
	readonly input?: Readonly<Record<string, unknown>>
	readonly version?: string
	readonly tags?: readonly string[]
}

interface RequestOptions {
	readonly method?: 'POST'
	readonly headers?: Readonly<Record<string, string>>
	readonly body?: string
}

/** The server understood the request and will not do it: sending it again changes nothing. */
class RequestRefusedError extends Error {
	override readonly name = 'RequestRefusedError'
}

/** Nothing answers at the URL, or not what should. */
class WrongServerError extends Error {
	override readonly name = 'WrongServerError'
}

interface RunsClientOptions {
	/** Without a trailing slash. */
	readonly baseUrl: string
	readonly apiKey?: string | undefined
	/** Told when requests begin to fail, and (without a problem) when they get through again. */
	readonly onTrouble?: (problem?: string) => void
}

export class RunsClient {
	private readonly options: RunsClientOptions
	private readonly createdAt = performance.now()
	private answeredOnce = false
	private inTrouble = false

	constructor(options: RunsClientOptions) {
		this.options = options
	}

	/** @throws RequestRefusedError, WrongServerError, or the reason of `signal`. So do the others. */
	async start(request: StartRequest, idempotencyKey: string, signal: AbortSignal): Promise<string> {
		const headers = { 'content-type': 'application/json', 'idempotency-key': idempotencyKey }
		const answer = await this.send(
			'/runs',
			{ method: 'POST', headers, body: JSON.stringify(request) },
			ANSWER_TIMEOUT_MS,
			signal,
		)
		return this.check(startedSchema, answer).runId
	}

	/** Resolves when the run has completed, failed or been cancelled. `onProgress` sees every answer before that. */
	async waitForEnd(runId: string, signal: AbortSignal, onProgress?: (run: Run) => void): Promise<Run> {
		const path = `/runs/${encodeURIComponent(runId)}?wait=${LONG_POLL_SECONDS}s`
		for (;;) {
			const run = this.check(
				runSchema,
				await this.send(path, {}, LONG_POLL_SECONDS * 1000 + ANSWER_TIMEOUT_MS, signal),
			)
			if (run.status === 'completed' || run.status === 'failed' || run.status === 'cancelled')
				return run
			onProgress?.(run)
			// A server that does not hold its answer back is not to be flooded.
			await sleep(MIN_BACKOFF_MS, signal)
		}
	}

	private async send(
		path: string,
		init: RequestOptions,
		timeoutMs: number,
		signal: AbortSignal,
	): Promise<unknown> {
		for (let backoffMs = MIN_BACKOFF_MS; ; backoffMs = Math.min(backoffMs * 2, MAX_BACKOFF_MS)) {
			const outcome = await this.attempt(path, init, timeoutMs, signal)
			if ('answer' in outcome) {
				this.reportTrouble(undefined)
				return outcome.answer
			}
			if (!this.answeredOnce && performance.now() - this.createdAt > UNANSWERED_MS) {
				throw new WrongServerError(
					`Nothing answers at ${this.options.baseUrl} (${outcome.problem}). Run "npm start" first.`,
				)
			}
			this.reportTrouble(outcome.problem)
			await sleep(Math.max(withJitter(backoffMs), outcome.retryAfterMs ?? 0), signal)
		}
	}

	/** One request. A problem is worth another attempt; anything that is not, throws. */
	private async attempt(
		path: string,
		init: RequestOptions,
		timeoutMs: number,
		signal: AbortSignal,
	): Promise<{ answer: unknown } | { problem: string; retryAfterMs?: number }> {
		signal.throwIfAborted()
		const { baseUrl, apiKey } = this.options
		let response: Response
		let text: string
		const silence = new AbortController()
		const timer = setTimeout(() => silence.abort(new Error('no answer in time')), timeoutMs)
		try {
			response = await fetch(baseUrl + path, {
				...init,
				headers: {
					...init.headers,
					accept: 'application/json',
					...(apiKey && { authorization: `Bearer ${apiKey}` }),
				},
				signal: AbortSignal.any([signal, silence.signal]),
			})
			this.answeredOnce = true
			text = await response.text()
		} catch (error) {
			signal.throwIfAborted()
			return { problem: describe(error) }
		} finally {
			clearTimeout(timer)
		}
		const body = parseJson(text)
		if (response.ok) return { answer: body }
		const problem = problemSchema.safeParse(body).data
		const said = [problem?.title, problem?.detail].filter(Boolean).join(': ') || NOT_AN_API
		if (response.status >= 500 || response.status === TOO_MANY_REQUESTS) {
			const retryAfterMs = Math.min(
				Number(response.headers.get('retry-after')) * 1000 || 0,
				MAX_BACKOFF_MS,
			)
			return { problem: `status ${response.status}, ${said}`, retryAfterMs }
		}
		throw new RequestRefusedError(
			`${baseUrl} refused the request with status ${response.status}: ${said}`,
		)
	}

	private reportTrouble(problem: string | undefined): void {
		if (this.inTrouble === (problem !== undefined)) return
		this.inTrouble = problem !== undefined
		this.options.onTrouble?.(problem)
	}

	private check<T>(schema: z.ZodType<T>, answer: unknown): T {
		const parsed = schema.safeParse(answer)
		if (parsed.success) return parsed.data
		throw new WrongServerError(
			`${this.options.baseUrl} gave an answer that makes no sense here: ${NOT_AN_API}`,
		)
	}
}

async function sleep(ms: number, signal: AbortSignal): Promise<void> {
	await sleepFor(ms, undefined, { signal }).catch(() => signal.throwIfAborted())
}

/** `fetch` hides what happened ("connection refused") in the cause of its error. */
function describe(error: unknown): string {
	if (!(error instanceof Error)) return String(error)
	const { cause } = error
	if (!(cause instanceof Error)) return error.message
	return cause.message || ('code' in cause ? String(cause.code) : error.message)
}

function parseJson(text: string): unknown {
	try {
		return JSON.parse(text)
	} catch {
		return undefined
	}
}
