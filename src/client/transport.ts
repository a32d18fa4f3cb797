/**
 * Requests that survive a server that restarts, a network that breaks and a limit that is reached, as long as sending
 * them again does no harm.
 */
import {
	ClientError,
	ConnectionError,
	type Problem,
	type ProblemError,
	problemError,
	UnexpectedAnswerError,
} from './errors.js'
import { backoff, pause } from './pause.js'

export interface RetryOptions {
	/** How long a request is tried, in ms. Default 30000; `Infinity`: until its signal aborts; 0: once. */
	readonly forMs?: number
	/** Gives up earlier if nothing has ever answered, in ms: then it was never there. Default `forMs`. */
	readonly firstAnswerMs?: number
	/** First pause, in ms; doubles up to `maxPauseMs`, with jitter. Default 100. */
	readonly minPauseMs?: number
	/** Default 5000. A longer `Retry-After` of the server counts all the same, up to a minute. */
	readonly maxPauseMs?: number
}

export interface TransportOptions {
	/** Where the functions are: `https://flows.example.com`, or with a path that they are served under. */
	readonly url: string
	/** An API key or a token; a function is asked before each request. */
	readonly apiKey?: string | (() => string | Promise<string>) | undefined
	/** Sent with every request. */
	readonly headers?: Readonly<Record<string, string>>
	/** Default: the host's. */
	readonly fetch?: (url: string, init: RequestInit) => Promise<Response>
	readonly retry?: RetryOptions
	/** An answer that takes longer counts as lost, in ms, beyond the time that the server was asked to wait. Default 15000. */
	readonly timeoutMs?: number
	/** Told when requests begin to fail, and (without a problem) when they get through again. */
	readonly onTrouble?: (problem?: string) => void
}

export interface Call {
	readonly method?: 'GET' | 'POST'
	readonly path: string
	readonly query?: Readonly<Record<string, string | number | readonly string[] | undefined>>
	readonly headers?: Readonly<Record<string, string>>
	readonly body?: unknown
	/** Whether it may be sent again when nobody knows whether it was carried out. */
	readonly repeatable: boolean
	/** How long the server was asked to wait, in ms. */
	readonly serverWaitMs?: number
	readonly signal?: AbortSignal | undefined
}

const MAX_RETRY_AFTER_MS = 60_000
const TOO_MANY_REQUESTS = 429

/** What came of one attempt that is worth another one. */
interface Failure {
	readonly error: ClientError
	readonly retryAfterMs: number
	/** It was certainly not carried out. */
	readonly refused: boolean
}

export class Transport {
	private readonly options: TransportOptions
	private readonly url: string
	private readonly createdAt = performance.now()
	private answered = false
	private inTrouble = false

	constructor(options: TransportOptions) {
		this.options = options
		// Wrong once and for all: no trying again would mend it.
		if (!/^https?:\/\//i.test(options.url) || !URL.canParse(options.url))
			throw new TypeError(`url: '${options.url}' is no http(s) URL`)
		this.url = options.url.replace(/\/+$/, '')
	}

	/** The parsed answer. @throws ClientError; the signal's reason */
	async json(call: Call): Promise<unknown> {
		return this.retried(call, async (signal) => {
			const response = await this.send(call, signal)
			return parse(await response.text()) ?? { unexpected: true }
		})
	}

	/** The answer with its body still to come; the caller reads it in its own time. */
	async stream(call: Call): Promise<Response> {
		return this.retried(call, (signal) => this.send(call, signal))
	}

	/** Pause before a request that was under way is made again, after so many failures in a row. */
	pauseMs(failures: number): number {
		const { minPauseMs = 100, maxPauseMs = 5_000 } = this.options.retry ?? {}
		return backoff(failures, minPauseMs, maxPauseMs)
	}

	get retryForMs(): number {
		return this.options.retry?.forMs ?? 30_000
	}

	reportTrouble(problem?: string): void {
		if (this.inTrouble === (problem !== undefined)) return
		this.inTrouble = problem !== undefined
		this.options.onTrouble?.(problem)
	}

	private async retried<T>(call: Call, attempt: (signal: AbortSignal) => Promise<T>): Promise<T> {
		const begin = performance.now()
		const { retry = {} } = this.options
		for (let failures = 1; ; failures++) {
			const outcome = await this.attempt(call, attempt)
			if ('value' in outcome) {
				this.reportTrouble()
				return outcome.value
			}
			const { error, retryAfterMs, refused } = outcome
			if (!call.repeatable && !refused) throw error
			const pauseMs = Math.max(this.pauseMs(failures), Math.min(retryAfterMs, MAX_RETRY_AFTER_MS))
			const now = performance.now()
			if (now + pauseMs - begin > this.retryForMs) throw error
			if (!this.answered && now - this.createdAt > (retry.firstAnswerMs ?? Infinity)) {
				throw new ConnectionError(`Nothing answers at ${this.url} (${error.message})`, {
					cause: error,
				})
			}
			this.reportTrouble(error.message)
			await pause(pauseMs, call.signal)
		}
	}

	private async attempt<T>(
		call: Call,
		attempt: (signal: AbortSignal) => Promise<T>,
	): Promise<{ readonly value: T } | Failure> {
		call.signal?.throwIfAborted()
		const { timeoutMs = 15_000 } = this.options
		const silence = new AbortController()
		const timer = setTimeout(
			() => silence.abort(new ConnectionError('no answer in time')),
			timeoutMs + (call.serverWaitMs ?? 0),
		)
		try {
			const signals = [silence.signal, ...(call.signal === undefined ? [] : [call.signal])]
			return { value: await attempt(AbortSignal.any(signals)) }
		} catch (error) {
			call.signal?.throwIfAborted()
			if (error instanceof Retriable) return error.failure
			if (error instanceof ClientError && !(error instanceof ConnectionError)) throw error
			return { error: connectionError(error), retryAfterMs: 0, refused: false }
		} finally {
			clearTimeout(timer)
		}
	}

	private async send(call: Call, signal: AbortSignal): Promise<Response> {
		const { apiKey, headers, fetch: ownFetch } = this.options
		const key = typeof apiKey === 'function' ? await apiKey() : apiKey
		const init: RequestInit = {
			method: call.method ?? 'GET',
			headers: {
				Accept: 'application/json',
				...headers,
				...(key === undefined ? {} : { Authorization: `Bearer ${key}` }),
				...(call.body === undefined ? {} : { 'Content-Type': 'application/json' }),
				...call.headers,
			},
			...(call.body === undefined ? {} : { body: JSON.stringify(call.body) }),
			signal,
		}
		// Called as a function of nobody's: browsers refuse it as a method of something else.
		const response = await (ownFetch ?? fetch)(this.url + pathOf(call), init)
		this.answered = true
		if (response.ok) return response
		const error = await this.problemOf(response)
		const refused = response.status === TOO_MANY_REQUESTS
		if (refused || response.status >= 500) {
			const seconds = Number(response.headers.get('Retry-After'))
			throw new Retriable({ error, refused, retryAfterMs: seconds > 0 ? seconds * 1000 : 0 })
		}
		throw error
	}

	private async problemOf(response: Response): Promise<ProblemError | UnexpectedAnswerError> {
		const body = parse(await response.text())
		if (isProblem(body)) return problemError({ ...body, status: response.status })
		return new UnexpectedAnswerError(
			`${this.url} answered with status ${response.status} and no problem details: is this a flowcraft-outbox server?`,
		)
	}

	/** @throws UnexpectedAnswerError for an answer without this text field */
	expectField<T>(answer: unknown, field: keyof T & string): T {
		if (typeof answer === 'object' && answer !== null && field in answer) return answer as T
		throw new UnexpectedAnswerError(
			`${this.url} gave an answer that makes no sense here: is this a flowcraft-outbox server?`,
		)
	}
}

/** Carries a failure out of an attempt. */
class Retriable extends Error {
	constructor(readonly failure: Failure) {
		super(failure.error.message)
	}
}

function pathOf({ path, query = {} }: Call): string {
	const parameters = new URLSearchParams()
	for (const [name, value] of Object.entries(query)) {
		if (value === undefined) continue
		parameters.set(name, typeof value === 'object' ? value.join(',') : String(value))
	}
	return parameters.size === 0 ? path : `${path}?${parameters.toString()}`
}

/** `fetch` hides what happened ("connection refused") in the cause of its error. */
function connectionError(error: unknown): ConnectionError {
	if (error instanceof ConnectionError) return error
	const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error
	const code = cause instanceof Error && 'code' in cause ? String(cause.code) : ''
	const message = cause instanceof Error ? cause.message || code || cause.name : String(cause)
	return new ConnectionError(message, { cause: error })
}

function parse(text: string): unknown {
	try {
		return JSON.parse(text)
	} catch {
		return undefined
	}
}

function isProblem(body: unknown): body is Omit<Problem, 'status'> {
	return typeof body === 'object' && body !== null && 'title' in body
}
