/**
 * Values as they are stored: the text that the serializer wrote, so that they come back as they went in.
 *
 * With the default serializer that text is the value's JSON. What a custom `ISerializer` wrote need not be JSON, so it
 * is kept as a string inside `{"$serialized": "…"}`: views and functions, which have no serializer, still read JSON.
 */
import { JsonSerializer, type ISerializer } from 'flowcraft'

/** No value may be larger, in UTF-16 units: far below what Postgres takes, far above what a workflow should carry. */
const MAX_VALUE_LENGTH = 64 * 1024 * 1024

/** A value cannot be stored, now or ever: its node fails at once, and nothing is retried. */
export class UnstorableValueError extends Error {
	readonly key: string
	constructor(key: string, why: string, options?: ErrorOptions) {
		super(`The value of '${shorten(key)}' cannot be stored: ${why}`, options)
		this.name = 'UnstorableValueError'
		this.key = key
	}
}

const shorten = (text: string): string => (text.length > 200 ? `${text.slice(0, 200)}…` : text)

export interface ValueCodec {
	/**
	 * The text to store, or null for `undefined`.
	 * @param key names the value in the error
	 * @throws UnstorableValueError for cycles, BigInt (without a serializer that takes it), absurd depth or size
	 */
	encode(key: string, value: unknown): string | null
	/**
	 * The text that the serializer itself writes, for whoever reads it elsewhere; `undefined` becomes null.
	 * @throws UnstorableValueError as `encode` does
	 */
	serialize(key: string, value: unknown): string
	/** What `encode` was given; null is `undefined`. */
	decode(text: string | null): unknown
}

/** The codec for a run's values under this serializer; plain JSON without one. */
export function createValueCodec(serializer?: ISerializer): ValueCodec {
	const custom =
		serializer !== undefined && !(serializer instanceof JsonSerializer) ? serializer : undefined
	return {
		encode(key, value) {
			if (value === undefined) return null
			const text = custom === undefined ? toJson(key, value) : wrap(key, value, custom)
			if (text !== null && text.length > MAX_VALUE_LENGTH) {
				throw new UnstorableValueError(
					key,
					`it has ${text.length} characters, the limit is ${MAX_VALUE_LENGTH}`,
				)
			}
			return text
		},
		serialize(key, value) {
			const given = value === undefined ? null : value
			const text =
				custom === undefined
					? (toJson(key, given) ?? 'null')
					: explained(key, () => custom.serialize(given as Record<string, unknown>))
			if (text.includes('\u0000') || !text.isWellFormed())
				throw new UnstorableValueError(key, 'the serializer wrote text that Postgres cannot hold')
			return text
		},
		decode(text) {
			if (text === null) return undefined
			const value: unknown = JSON.parse(text)
			if (custom !== undefined && isWrapped(value))
				return custom.deserialize(value.$serialized)['v'] as unknown
			return value
		},
	}
}

function toJson(key: string, value: unknown): string | null {
	// A function or a symbol is `undefined` to JSON.
	return explained(key, () => JSON.stringify(value) ?? null)
}

function wrap(key: string, value: unknown, serializer: ISerializer): string {
	return explained(key, () => JSON.stringify({ $serialized: serializer.serialize({ v: value }) }))
}

function explained<T>(key: string, write: () => T): T {
	try {
		return write()
	} catch (error) {
		throw new UnstorableValueError(key, explain(error), { cause: error })
	}
}

function explain(error: unknown): string {
	if (error instanceof RangeError) return 'it is nested too deeply'
	const message = error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error)
	if (/circular/i.test(message)) return 'it contains itself (a circular reference)'
	if (/BigInt/i.test(message))
		return 'it contains a BigInt, which JSON does not know; use a serializer that does'
	return message
}

function isWrapped(value: unknown): value is { $serialized: string } {
	return (
		typeof value === 'object' &&
		value !== null &&
		Object.keys(value).length === 1 &&
		'$serialized' in value &&
		typeof value.$serialized === 'string'
	)
}

/** A key that Postgres cannot hold in a text column. */
export function checkKey(key: string): void {
	if (key.includes('\u0000'))
		throw new UnstorableValueError(
			key.replaceAll('\u0000', '\\u0000'),
			'its key contains a NUL character',
		)
	if (!key.isWellFormed())
		throw new UnstorableValueError(key.toWellFormed(), 'its key contains half of a surrogate pair')
	if (key.length > 1024)
		throw new UnstorableValueError(key, `its key has ${key.length} characters, the limit is 1024`)
}
