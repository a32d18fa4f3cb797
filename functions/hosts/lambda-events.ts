/**
 * Lambda's events as requests, and answers as Lambda wants them: payload format 2.0, which HTTP APIs of API Gateway
 * and function URLs share.
 */
import type { App, HostBindings } from '../endpoint.js'
import { hostBindings } from './fetch-host.js'

/** What is used of an event. */
export interface HttpEvent {
	readonly rawPath: string
	readonly rawQueryString: string
	readonly cookies?: readonly string[]
	readonly headers: Readonly<Record<string, string | undefined>>
	readonly requestContext: {
		readonly domainName: string
		readonly stage: string
		readonly http: { readonly method: string; readonly sourceIp: string }
	}
	readonly body?: string
	readonly isBase64Encoded: boolean
}

export interface HttpResult {
	readonly statusCode: number
	readonly headers: Readonly<Record<string, string>>
	readonly body: string
	readonly isBase64Encoded: boolean
}

export interface LambdaContext {
	getRemainingTimeInMillis(): number
}

/** What Lambda's runtime hands to a handler that streams: a Node writable. */
export interface ResponseStream {
	write(chunk: Uint8Array): boolean
	end(): void
	once(event: 'drain' | 'close' | 'error', listener: () => void): unknown
	readonly destroyed: boolean
}

/** Of Lambda's Node runtime, which alone has it. */
interface LambdaRuntime {
	streamifyResponse<
		H extends (event: HttpEvent, stream: ResponseStream, context: LambdaContext) => Promise<void>,
	>(
		handler: H,
	): H
	readonly HttpResponseStream: {
		from(
			stream: ResponseStream,
			head: { readonly statusCode: number; readonly headers: Readonly<Record<string, string>> },
		): ResponseStream
	}
}

/** An HTTP API gives up on its function after so long, whatever the function's own timeout, in ms. */
const API_GATEWAY_TIMEOUT_MS = 30_000
/** Who waits for a run is answered so long before time is up, in ms: nothing answers a request that was cut off. */
const MARGIN_MS = 1_500

export const createLambdaHandler =
	(app: App) =>
	async (event: HttpEvent, context: LambdaContext): Promise<HttpResult> => {
		const response = await answer(app, event, context, { inOnePiece: true })
		return {
			statusCode: response.status,
			headers: Object.fromEntries(response.headers),
			// Everything that this API says is text.
			body: await response.text(),
			isBase64Encoded: false,
		}
	}

/** Without Lambda's runtime there is nothing to stream to; then it throws when it is called. */
export function createStreamingLambdaHandler(
	app: App,
): (event: HttpEvent, stream: ResponseStream, context: LambdaContext) => Promise<void> {
	const { awslambda: runtime } = globalThis as { readonly awslambda?: LambdaRuntime }
	if (runtime === undefined)
		return () => Promise.reject(new Error('This handler needs the Node runtime of AWS Lambda.'))
	return runtime.streamifyResponse(async (event, rawStream, context) => {
		const response = await answer(app, event, context)
		const stream = runtime.HttpResponseStream.from(rawStream, {
			statusCode: response.status,
			headers: Object.fromEntries(response.headers),
		})
		try {
			// The head leaves with the first bytes, so there have to be some.
			if (response.body === null) stream.write(new Uint8Array())
			else await pour(response.body as ReadableStream<Uint8Array>, stream)
		} finally {
			stream.end()
		}
	})
}

async function pour(body: ReadableStream<Uint8Array>, stream: ResponseStream): Promise<void> {
	const reader = body.getReader()
	for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
		if (stream.destroyed) return reader.cancel()
		if (value === undefined || stream.write(value)) continue
		await new Promise<void>((resolve) => {
			for (const event of ['drain', 'close', 'error'] as const) stream.once(event, resolve)
		})
	}
}

async function answer(
	app: App,
	event: HttpEvent,
	context: LambdaContext,
	more: HostBindings = {},
): Promise<Response> {
	const isFunctionUrl = /\.lambda-url\.[^.]+\.on\.aws$/.test(event.requestContext.domainName)
	const remainingMs = Math.min(
		context.getRemainingTimeInMillis(),
		isFunctionUrl ? Number.POSITIVE_INFINITY : API_GATEWAY_TIMEOUT_MS,
	)
	const stopping = AbortSignal.timeout(Math.max(remainingMs - MARGIN_MS, 0))
	return app.fetch(requestOf(event), {
		...hostBindings(stopping, event.requestContext.http.sourceIp),
		...more,
	})
}

function requestOf(event: HttpEvent): Request {
	const { requestContext, rawQueryString, body } = event
	const headers = new Headers()
	for (const [name, value] of Object.entries(event.headers))
		if (value !== undefined) headers.set(name, value)
	if (event.cookies !== undefined) headers.set('cookie', event.cookies.join('; '))
	const query = rawQueryString === '' ? '' : `?${rawQueryString}`
	return new Request(`https://${requestContext.domainName}${pathOf(event)}${query}`, {
		method: requestContext.http.method,
		headers,
		...(body === undefined || body === '' ? {} : { body: event.isBase64Encoded ? bytesOf(body) : body }),
	})
}

/** Without the stage: API Gateway puts the name of any but the default one before the path. */
function pathOf({ rawPath, requestContext: { stage } }: HttpEvent): string {
	const prefix = `/${stage}`
	const path =
		stage !== '$default' && (rawPath === prefix || rawPath.startsWith(`${prefix}/`))
			? rawPath.slice(prefix.length)
			: rawPath
	// It may have been decoded. Then what would end a path is no more than a character of it.
	return path.replaceAll('?', '%3F').replaceAll('#', '%23')
}

const bytesOf = (base64: string): Uint8Array<ArrayBuffer> =>
	Uint8Array.from(atob(base64), (character) => character.charCodeAt(0))
