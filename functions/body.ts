/** Reading a request's body: at most so many bytes, of the declared type, in UTF-8, parsed once. */
import { HttpProblem } from './problem.js'

/** 1 MiB. */
export const DEFAULT_BODY_LIMIT_BYTES = 1024 * 1024

/** `application/json` and its kin, in UTF-8. */
const JSON_TYPE = /^application\/(?:[\w.-]+\+)?json *(?:; *charset *= *"?utf-?8"? *)?$/i

/**
 * The parsed body; undefined if there is none.
 * @throws HttpProblem
 */
export async function readJsonBody(request: Request, limitBytes: number): Promise<unknown> {
	const text = decodeUtf8(await readBytes(request, limitBytes))
	if (text === '') return undefined
	// Asked even of clients that declare nothing: browsers send such requests across sites without asking first.
	if (!isJsonType(request.headers.get('content-type') ?? '') || request.headers.has('content-encoding')) {
		throw new HttpProblem(
			'unsupported-media-type',
			'Send the body with Content-Type: application/json, in UTF-8 and not compressed.',
		)
	}
	return parseJson(text)
}

export const isJsonType = (type: string): boolean => JSON_TYPE.test(type)

/**
 * The body as text, of whatever type; empty if there is none.
 * @throws HttpProblem
 */
export async function readTextBody(request: Request, limitBytes: number): Promise<string> {
	if (request.headers.has('content-encoding')) {
		throw new HttpProblem('unsupported-media-type', 'Send the body uncompressed.')
	}
	return decodeUtf8(await readBytes(request, limitBytes))
}

/** @throws HttpProblem */
export function parseJson(text: string): unknown {
	try {
		return JSON.parse(text) as unknown
	} catch (error) {
		const message = describeSyntaxError(text, error)
		throw new HttpProblem('malformed-json', message, {
			errors: [{ in: 'body', path: '', message }],
			cause: error,
		})
	}
}

async function readBytes(request: Request, limitBytes: number): Promise<Uint8Array> {
	const tooLarge = (): HttpProblem =>
		new HttpProblem('body-too-large', `The body has more than ${limitBytes} bytes.`)
	const declared = request.headers.get('content-length')
	if (Number(declared ?? 0) > limitBytes) throw tooLarge()
	if (declared !== null) {
		// Servers cut a body at its declared length. Read as a whole, it needs no stream, which costs Node more than all
		// else that is done for a request.
		const bytes = new Uint8Array(await request.arrayBuffer())
		if (bytes.byteLength > limitBytes) throw tooLarge()
		return bytes
	}
	if (request.body === null) return new Uint8Array()
	const chunks: Uint8Array[] = []
	let size = 0
	const reader = (request.body as ReadableStream<Uint8Array>).getReader()
	for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
		if (value === undefined) continue
		size += value.byteLength
		if (size > limitBytes) {
			await reader.cancel()
			throw tooLarge()
		}
		chunks.push(value)
	}
	const [only] = chunks
	if (chunks.length === 1 && only !== undefined) return only
	const bytes = new Uint8Array(size)
	let offset = 0
	for (const chunk of chunks) {
		bytes.set(chunk, offset)
		offset += chunk.byteLength
	}
	return bytes
}

function decodeUtf8(bytes: Uint8Array): string {
	try {
		return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
	} catch (error) {
		const message = 'is not UTF-8'
		throw new HttpProblem('malformed-json', `The body ${message}.`, {
			errors: [{ in: 'body', path: '', message }],
			cause: error,
		})
	}
}

/** What the engine says, with line and column where it tells the position. */
function describeSyntaxError(text: string, error: unknown): string {
	const message = error instanceof Error ? error.message : String(error)
	const position = /end of JSON/i.test(message)
		? text.length
		: Number(/position (\d+)/.exec(message)?.[1] ?? Number.NaN)
	if (Number.isNaN(position)) return message
	const before = text.slice(0, position).split('\n')
	const reason = message.replace(/ (?:in JSON )?at position .*$/, '')
	return `${reason} at position ${position} (line ${before.length}, column ${(before.at(-1)?.length ?? 0) + 1})`
}
