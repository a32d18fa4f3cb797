/**
 * Webhooks: URLs that end one wait, once, before they expire. Whoever knows the URL may use it, so its token cannot be
 * guessed, is stored only as a hash, and is never logged.
 *
 * A request is an event whose name only the webhook knows (`webhook:<hash>`): waiting, being kept for a wait that is
 * not there yet, and racing with it are those of events.
 */
import { createValueCodec, type ValueCodec } from '../context/values.js'
import { type Executor, query } from '../db/query.js'
import { GoneError, NotFoundError } from '../errors.js'
import { resumeWith, type WokenNode, wokenNodes, type WokenRow } from './woken.js'

/** Names of events that begin so are sent by webhooks alone. */
export const WEBHOOK_EVENT_PREFIX = 'webhook:'
/** How long a webhook is good where its node does not say, in ms: a week. */
export const DEFAULT_WEBHOOK_EXPIRES_MS = 7 * 86_400_000

/** What the waiting node gets as its output. */
export interface WebhookRequest {
	/** The parsed body, if it is JSON. */
	readonly json?: unknown
	readonly text: string
	/** Names in lower case. */
	readonly headers: Readonly<Record<string, string>>
}

export interface WebhookToken {
	readonly token: string
	readonly hash: string
	/** What a wait for the request waits for. */
	readonly event: string
}

/** The token of a place: the same for the same secret and place, in every process. */
export async function deriveWebhook(
	secret: string,
	place: readonly (string | number)[],
): Promise<WebhookToken> {
	const key = await crypto.subtle.importKey(
		'raw',
		bytes(secret),
		{ name: 'HMAC', hash: 'SHA-256' },
		false,
		['sign'],
	)
	const token = base64Url(
		new Uint8Array(await crypto.subtle.sign('HMAC', key, bytes(JSON.stringify(['webhook', ...place])))),
	)
	const hash = await hashToken(token)
	return { token, hash, event: `${WEBHOOK_EVENT_PREFIX}${hash}` }
}

/**
 * The secret that tokens are derived from where the environment gives none: made by the first process that asks and
 * kept in the database, so that all of them agree. Who can read it can read the URLs in the nodes' outputs as well.
 */
export async function sharedWebhookSecret(db: Executor): Promise<string> {
	const random = base64Url(crypto.getRandomValues(new Uint8Array(32)))
	// The update changes nothing; it makes the first process's value visible to all others, at the same moment too.
	const [row] = await query<{ value: string }>(
		db,
		`insert into flowcraft_secrets as s (name, value) values ('webhook', $1::text)
		on conflict (name) do update set value = s.value returning value`,
		[random],
	)
	if (row === undefined) throw new Error('The secret of the webhooks was not stored')
	return row.value
}

/**
 * A webhook for a node of a run, outside the node's commit: repeating the call gives the same one until it is used or
 * has expired.
 */
export async function registerWebhook(
	db: Executor,
	secret: string,
	runId: string,
	nodeId: string,
	expiresInMs: number = DEFAULT_WEBHOOK_EXPIRES_MS,
): Promise<WebhookToken> {
	const [spent] = await query<{ count: number }>(
		db,
		`select count(*)::int as count from flowcraft_webhooks
		where run_id = $1::text and node_id = $2::text and (used_at is not null or expires_at <= clock_timestamp())`,
		[runId, nodeId],
	)
	const webhook = await deriveWebhook(secret, ['registered', runId, nodeId, spent?.count ?? 0])
	await query(
		db,
		`insert into flowcraft_webhooks (hash, run_id, node_id, expires_at)
		select $1::text, $2::text, $3::text, clock_timestamp() + $4::text::bigint * interval '1 millisecond'
		on conflict do nothing`,
		[webhook.hash, runId, nodeId, String(Math.round(expiresInMs))],
	)
	return webhook
}

/**
 * Uses a webhook up: whoever waits for it goes on, or the request is kept for a wait that is still to come.
 * @throws NotFoundError; GoneError if it was used before or has expired, or its run has ended. Then nothing was changed.
 */
export async function receiveWebhook(
	db: Executor,
	token: string,
	request: WebhookRequest,
	codec: ValueCodec = createValueCodec(),
): Promise<{ readonly woken: readonly WokenNode[] }> {
	// What cannot be a token needs no database.
	if (!/^[\w-]{43}$/.test(token)) throw unknownWebhook()
	const [row] = await query<WokenRow & { outcome: 'received' | 'unknown' | 'used' | 'expired' | 'ended' }>(
		db,
		`select outcome, to_json(woken_runs)::text as runs, to_json(woken_nodes)::text as nodes
		from flowcraft_receive_webhook($1::text, $2::text)`,
		[await hashToken(token), resumeWith(request, 'request', codec)],
	)
	if (row === undefined || row.outcome === 'unknown') throw unknownWebhook()
	if (row.outcome === 'used')
		throw new GoneError('This webhook was used before. Each one takes a single request.')
	if (row.outcome === 'ended')
		throw new GoneError('The run that gave out this webhook has ended: nobody waits for it any more.')
	if (row.outcome === 'expired') throw new GoneError('This webhook has expired.')
	return { woken: wokenNodes(row) }
}

const unknownWebhook = (): NotFoundError => new NotFoundError('There is no such webhook.')

async function hashToken(token: string): Promise<string> {
	const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes(token)))
	return [...digest].map((byte) => byte.toString(16).padStart(2, '0')).join('')
}

const bytes = (text: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(text)

function base64Url(data: Uint8Array): string {
	return btoa(String.fromCharCode(...data))
		.replaceAll('+', '-')
		.replaceAll('/', '_')
		.replaceAll('=', '')
}
