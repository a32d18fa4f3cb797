/** `POST /webhooks/:token`: for systems that know nothing of runs, only the URL that they were given. */
import { z } from '@hono/zod-openapi'
import type { ValueCodec } from '../../src/context/values.js'
import type { Doorbell } from '../../src/ports/doorbell.js'
import { receiveWebhook, type WebhookRequest } from '../../src/run/webhooks.js'
import { jsonResponse } from '../answer.js'
import { isJsonType, parseJson } from '../body.js'
import type { AddEndpoint, EndpointDefinition, RawRequest } from '../endpoint.js'
import { invalidInput } from '../problem.js'
import { storageFaults } from '../storable.js'

const receiveWebhookEndpoint = {
	method: 'post',
	path: '/webhooks/{token}',
	operationId: 'receiveWebhook',
	tag: 'Events',
	scope: 'open',
	summary: 'Call a webhook',
	description:
		'The URL itself is the permission. It takes one request: the node that waits for it gets ' +
		'`{ json?, text, headers }`, where `json` is the parsed body if that is JSON, whatever its declared type. A request ' +
		'that comes before the wait is kept for it. Credentials, cookies and hop-by-hop headers are not handed on. A ' +
		'request that is refused with 400, 413 or 415 does not use the webhook up.',
	params: z.object({
		token: z.string().openapi({
			description: 'From the URL that a webhook node gave out.',
			example: 'Tm90LWEtcmVhbC10b2tlbi1idXQtYXMtbG9uZy1hcy0',
		}),
	}),
	rawBody: { description: 'Any text in UTF-8.', example: { paid: true } },
	answers: {
		202: {
			description: 'The request is taken in.',
			schema: z.object({ received: z.literal(true) }).openapi('ReceivedWebhook'),
			example: { received: true },
		},
	},
	problems: [
		'malformed-json',
		'not-found',
		'gone',
		'body-too-large',
		'unsupported-media-type',
		'too-many-requests',
		'internal',
		'unavailable',
	],
} as const satisfies EndpointDefinition

export function addWebhookRoute(add: AddEndpoint, doorbell: Doorbell, codec: ValueCodec): void {
	add(receiveWebhookEndpoint, async ({ params, raw, db }) => {
		const { woken } = await receiveWebhook(db, params.token, readRequest(raw), codec)
		if (woken.length > 0) doorbell.ring({ type: 'outbox' })
		return jsonResponse({ received: true }, 202)
	})
}

/** @throws HttpProblem */
function readRequest({ text, headers }: RawRequest): WebhookRequest {
	const json = readJson(text, headers.get('content-type') ?? '')
	const faults = [...storageFaults(text), ...(json === undefined ? [] : storageFaults(json))]
	if (faults.length > 0) throw invalidInput(faults.map((fault) => ({ in: 'body', ...fault })))
	return { ...(json === undefined ? {} : { json }), text, headers: forwardable(headers) }
}

/** Declared as JSON, it has to be. Otherwise it may be: many senders declare nothing, or a form. */
function readJson(text: string, type: string): unknown {
	if (text === '') return undefined
	if (isJsonType(type)) return parseJson(text)
	try {
		const value: unknown = JSON.parse(text)
		return storageFaults(value).length === 0 ? value : undefined
	} catch {
		return undefined
	}
}

/** About the connection (RFC 9110, 7.6.1), or secrets that are meant for us and not for a run's context. */
const NOT_FORWARDED = new Set([
	'connection',
	'keep-alive',
	'proxy-connection',
	'te',
	'trailer',
	'transfer-encoding',
	'upgrade',
	'proxy-authenticate',
	'proxy-authorization',
	'authorization',
	'cookie',
	'x-api-key',
])

function forwardable(headers: Headers): Record<string, string> {
	const named = (headers.get('connection') ?? '').split(',').map((name) => name.trim().toLowerCase())
	return Object.fromEntries(
		[...headers].filter(([name]) => !NOT_FORWARDED.has(name) && !named.includes(name)),
	)
}
