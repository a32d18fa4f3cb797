import { inspect } from 'node:util'
import { setTimeout as delay } from 'node:timers/promises'

export interface WaitOptions<T> {
	/** Give up after so long, in ms. Default 20000: a busy machine is slow, a lost message is found late. */
	readonly deadlineMs?: number
	/** Ask again after so long, in ms. Default 25. */
	readonly everyMs?: number
	/** Whether the value is the awaited one. Default: it is neither `false`, `null`, `undefined`, `0` nor empty text. */
	readonly until?: (value: T) => boolean
}

/** What the default `until` lets through. */
type Awaited<T> = Exclude<T, false | null | undefined | 0 | 0n | ''>

/**
 * Asks `fn` again and again until its value is the awaited one. An `fn` that throws is asked again too, so it may
 * hold assertions.
 *
 * @param description completes the sentence "waited for …".
 * @throws after the deadline, also if `fn` hangs; the message says what the last answer was.
 */
export function waitFor<T>(
	description: string,
	fn: () => T | Promise<T>,
	options: WaitOptions<T> & { readonly until: (value: T) => boolean },
): Promise<T>
export function waitFor<T>(
	description: string,
	fn: () => T | Promise<T>,
	options?: WaitOptions<T>,
): Promise<Awaited<T>>
export async function waitFor<T>(
	description: string,
	fn: () => T | Promise<T>,
	options: WaitOptions<T> = {},
): Promise<T> {
	const { deadlineMs = 20_000, everyMs = 25, until = Boolean } = options
	const deadline = Date.now() + deadlineMs
	let answers = 0
	let last: { value: T } | { error: unknown } | undefined

	const expired = new AbortController()
	const timeUp = delay(deadlineMs, 'time is up' as const, { signal: expired.signal })
	timeUp.catch(() => {})
	try {
		do {
			const answer = (async () => {
				try {
					return { value: await fn() }
				} catch (error) {
					return { error }
				}
			})()
			const first = await Promise.race([answer, timeUp])
			if (first === 'time is up') break
			answers += 1
			last = first
			if ('value' in first && until(first.value)) return first.value
			await delay(Math.min(everyMs, Math.max(deadline - Date.now(), 0)))
		} while (Date.now() < deadline)
	} finally {
		expired.abort()
	}
	throw new Error(`waited ${deadlineMs} ms for ${description}; ${describe(last, answers)}`, {
		cause: last !== undefined && 'error' in last ? last.error : undefined,
	})
}

function describe(last: { value: unknown } | { error: unknown } | undefined, answers: number): string {
	if (last === undefined) return 'the first answer never came'
	const times = `after ${answers} ${answers === 1 ? 'try' : 'tries'}`
	if ('error' in last)
		return `${times} it threw ${last.error instanceof Error ? last.error.message : inspect(last.error)}`
	return `${times} the last answer was ${inspect(last.value, { depth: 6, breakLength: 120 })}`
}
