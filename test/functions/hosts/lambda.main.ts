/**
 * What AWS puts before a Lambda function, in miniature: takes HTTP, makes an event of it in the form of a recorded one,
 * invokes the deployed handler, one request at a time as an instance does, and turns its result into an answer.
 *
 * Arguments: the bundle, `api-gateway` or `function-url`, and the name of the handler.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { readFile } from 'node:fs/promises'
import { buffer } from 'node:stream/consumers'
import { Writable } from 'node:stream'
import { pathToFileURL } from 'node:url'

const [bundle = '', kind = '', handlerName = ''] = process.argv.slice(2)
/** The function's timeout, as the README has it set. */
const TIMEOUT_MS = 75_000

interface Head {
	readonly statusCode: number
	readonly headers: Readonly<Record<string, string>>
}

/** The runtime's part in streaming: the head goes before the first bytes. */
class ResponseStream extends Writable {
	head: Head = { statusCode: 200, headers: { 'content-type': 'application/octet-stream' } }
	readonly #response: ServerResponse

	constructor(response: ServerResponse) {
		super()
		this.#response = response
	}

	override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
		if (!this.#response.headersSent) this.#response.writeHead(this.head.statusCode, this.head.headers)
		this.#response.write(chunk)
		done()
	}

	override _final(done: () => void): void {
		this.#response.end(done)
	}
}

Object.assign(globalThis, {
	awslambda: {
		streamifyResponse: (handler: object) => Object.assign(handler, { streams: true }),
		HttpResponseStream: {
			from: (stream: ResponseStream, head: Head) => Object.assign(stream, { head }),
		},
	},
})

const template = JSON.parse(await readFile(new URL(`events/${kind}.json`, import.meta.url), 'utf8'))
const { [handlerName]: handler } = await import(pathToFileURL(bundle).href)

async function eventOf(request: IncomingMessage): Promise<object> {
	const url = new URL(request.url ?? '/', 'http://client')
	const body = await buffer(request)
	const isText = /^(application\/json|text\/)/.test(request.headers['content-type'] ?? '')
	const { stage } = template.requestContext
	const path = `${stage === '$default' ? '' : `/${stage}`}${url.pathname}`
	const { cookies: _cookies, ...rest } = template
	return {
		...rest,
		rawPath: path,
		rawQueryString: url.search.slice(1),
		headers: { ...template.headers, 'content-type': undefined, ...request.headers },
		requestContext: {
			...template.requestContext,
			http: { ...template.requestContext.http, method: request.method, path },
		},
		body: body.length === 0 ? undefined : body.toString(isText ? 'utf8' : 'base64'),
		isBase64Encoded: !isText,
	}
}

async function invoke(request: IncomingMessage, response: ServerResponse): Promise<void> {
	// As JSON, like all that comes from elsewhere.
	const event = JSON.parse(JSON.stringify(await eventOf(request)))
	const deadline = Date.now() + TIMEOUT_MS
	const context = { getRemainingTimeInMillis: () => deadline - Date.now() }
	if (handler.streams === true) return handler(event, new ResponseStream(response), context)
	const { statusCode, headers, body, isBase64Encoded } = JSON.parse(
		JSON.stringify(await handler(event, context)),
	)
	response.writeHead(statusCode, headers)
	response.end(Buffer.from(body, isBase64Encoded ? 'base64' : 'utf8'))
}

/** As after a freeze: the clock has gone on, and nothing else. */
process.on('SIGUSR2', () => {
	const { now } = Date
	Date.now = () => now() + 3_600_000
	console.log('an hour has passed')
})

let busy: Promise<void> = Promise.resolve()
const server = createServer((request, response) => {
	busy = busy
		.then(() => invoke(request, response))
		.catch((error: unknown) => {
			console.error(error)
			response.writeHead(502).end('{"message":"Internal Server Error"}')
		})
})
server.listen(0, '127.0.0.1', () =>
	console.log(`listening on http://127.0.0.1:${(server.address() as AddressInfo).port}`),
)
