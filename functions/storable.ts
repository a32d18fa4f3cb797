/** What a JSON document may not hold if Postgres is to keep all of it, queryable, and give it back unchanged. */
import type { Fault } from '../src/errors.js'

/** Arrays and objects inside each other: far above what people write, far below what overflows a stack. */
export const MAX_DEPTH = 100
/** A document that is wrong in more places than this is not worth listing to its end. */
const MAX_FAULTS = 100

interface Level {
	readonly container: object
	readonly keys: readonly string[]
	next: number
}

/**
 * Faults of a parsed JSON document, at most 100: NUL characters and lone surrogates (which jsonb refuses) in keys and
 * strings, numbers that no double can hold, and absurd depth. Does not recurse.
 */
export function storageFaults(document: unknown): Fault[] {
	const faults: Fault[] = []
	const levels: Level[] = []
	const report = (message: string): void => {
		const path = levels.map(({ keys, next }) => `/${pointerToken(keys[next - 1] ?? '')}`)
		faults.push({ path: path.join(''), message })
	}
	const enter = (value: unknown): void => {
		const fault = valueFault(value)
		if (fault !== undefined) report(fault)
		if (typeof value !== 'object' || value === null) return
		if (levels.length === MAX_DEPTH) report(`must not be nested more than ${MAX_DEPTH} levels deep`)
		else levels.push({ container: value, keys: Object.keys(value), next: 0 })
	}

	enter(document)
	for (
		let level = levels[levels.length - 1];
		level !== undefined && faults.length < MAX_FAULTS;
		level = levels[levels.length - 1]
	) {
		const key = level.keys[level.next++]
		if (key === undefined) {
			levels.pop()
			continue
		}
		const fault = textFault(key)
		if (fault !== undefined) report(`its name ${fault}`)
		enter((level.container as Record<string, unknown>)[key])
	}
	return faults
}

function valueFault(value: unknown): string | undefined {
	if (typeof value === 'string') return textFault(value)
	if (typeof value === 'number' && !Number.isFinite(value)) return 'must be a number that a double can hold'
	return undefined
}

function textFault(text: string): string | undefined {
	if (text.includes('\u0000')) return 'must not contain NUL (\\u0000)'
	if (!text.isWellFormed()) return 'must not contain half of a surrogate pair'
	return undefined
}

/** A key as a token of a JSON pointer, in characters that a text may have. */
export const pointerToken = (key: string): string =>
	key.replaceAll('~', '~0').replaceAll('/', '~1').replaceAll('\u0000', '\\u0000').toWellFormed()
