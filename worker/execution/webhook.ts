/** The URLs that `webhook` nodes give out. */
import { FlowcraftError, type NodeDefinition } from 'flowcraft'
import type { ClaimedNode } from '../../src/claim/claim.js'
import type { Executor } from '../../src/db/query.js'
import {
	DEFAULT_WEBHOOK_EXPIRES_MS,
	deriveWebhook,
	registerWebhook,
	sharedWebhookSecret,
} from '../../src/run/webhooks.js'
import { DURATION_FORMS, parseDuration } from './duration.js'

/** Where the functions listen unless they are told otherwise. */
const DEFAULT_PUBLIC_URL = 'http://127.0.0.1:3000'

/** What a webhook node returns; whoever has the URL may use it. */
export interface WebhookOutput {
	readonly url: string
	readonly event: string
}

export interface WebhookUrls {
	/** For this attempt of a node; usable once it is registered, in the node's commit. */
	derive(claimed: ClaimedNode): Promise<{ readonly output: WebhookOutput; readonly hash: string }>
	/** Usable at once, outside any node's commit. */
	register(runId: string, nodeId: string): Promise<WebhookOutput>
}

export interface WebhookOptions {
	/** Where the functions are reached. Default http://127.0.0.1:3000. */
	readonly publicUrl?: string | undefined
	/** What tokens are derived from. Default: a random one, kept in the database. */
	readonly webhookSecret?: string | undefined
}

export function createWebhookUrls(db: Executor, options: WebhookOptions): WebhookUrls {
	const base = (options.publicUrl ?? DEFAULT_PUBLIC_URL).replace(/\/+$/, '')
	let known: string | undefined = options.webhookSecret
	const secret = async (): Promise<string> => (known ??= await sharedWebhookSecret(db))
	const outputOf = ({ token, event }: { token: string; event: string }): WebhookOutput => ({
		url: `${base}/webhooks/${token}`,
		event,
	})
	return {
		async derive({ key, attempt }) {
			const webhook = await deriveWebhook(await secret(), [
				'node',
				key.runId,
				key.nodeId,
				key.generation,
				key.recovers,
				attempt,
			])
			return { output: outputOf(webhook), hash: webhook.hash }
		},
		register: async (runId, nodeId) => outputOf(await registerWebhook(db, await secret(), runId, nodeId)),
	}
}

/** `params.expiresIn` of a webhook node, in ms. @throws FlowcraftError, fatal */
export function webhookExpiry(node: NodeDefinition): number {
	const expiresIn: unknown = node.params?.['expiresIn']
	if (expiresIn === undefined) return DEFAULT_WEBHOOK_EXPIRES_MS
	const ms = parseDuration(expiresIn)
	if (ms !== undefined) return ms
	throw new FlowcraftError(
		`Webhook node '${node.id}' has the invalid expiresIn ${JSON.stringify(expiresIn)}: expected ${DURATION_FORMS}`,
		{
			nodeId: node.id,
			isFatal: true,
		},
	)
}
