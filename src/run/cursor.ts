/** Cursors of pages by keyset: where a page ended, opaque to whoever turns it. */
import { InvalidInputError } from '../errors.js'

/** What stands at one place of a cursor: a timestamp or whole number as Postgres writes it, or any text. */
export type CursorPart = 'timestamp' | 'integer' | 'text'

const CHECKS: Readonly<Record<CursorPart, (text: string) => boolean>> = {
	timestamp: (text) =>
		/^\d{4,6}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,6})?[+-]\d\d(:?\d\d){0,2}$/.test(text) &&
		!Number.isNaN(Date.parse(text.slice(0, 10))),
	integer: (text) => /^-?\d{1,9}$/.test(text),
	text: (text) => !text.includes('\u0000') && text.isWellFormed(),
}

export function encodeCursor(values: readonly string[]): string {
	const bytes = new TextEncoder().encode(JSON.stringify(values))
	return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''))
		.replaceAll('+', '-')
		.replaceAll('/', '_')
		.replaceAll('=', '')
}

/** What a cursor says; undefined if it is none of this shape. */
export function readCursor(cursor: string, shape: readonly CursorPart[]): string[] | undefined {
	try {
		const bytes = Uint8Array.from(atob(cursor.replaceAll('-', '+').replaceAll('_', '/')), (char) =>
			char.charCodeAt(0),
		)
		const parsed: unknown = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
		if (!Array.isArray(parsed) || parsed.length !== shape.length) return undefined
		return parsed.every(
			(value, at): value is string => typeof value === 'string' && CHECKS[shape[at] ?? 'text'](value),
		)
			? parsed
			: undefined
	} catch {
		// Whatever is wrong with it, it is not ours.
		return undefined
	}
}

/** @throws InvalidInputError for a cursor that is not of this shape */
export function decodeCursor(cursor: string, shape: readonly CursorPart[]): string[] {
	const values = readCursor(cursor, shape)
	if (values !== undefined) return values
	throw new InvalidInputError('The page does not exist', [
		{ path: '/cursor', message: 'is not a nextCursor of this list' },
	])
}
