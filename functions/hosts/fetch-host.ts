/** What hosts that serve with `fetch` have in common: what they tell with a request, and how they end. */
import type { HostBindings } from '../endpoint.js'

/** @param address of the client */
export const hostBindings = (stopping: AbortSignal, address: string | undefined): HostBindings => ({
	stopping,
	incoming: { socket: { remoteAddress: address } },
})

/** After so long, what has not been answered is cut, in ms. */
export const GRACE_MS = 10_000

/** `http://127.0.0.1:3000` */
export const urlOf = (host: string, port: number): string =>
	`http://${host.includes(':') && !host.startsWith('[') ? `[${host}]` : host}:${port}`

/** Waits for the answers that are under way, but not for ever. */
export async function cutAfterGrace(answered: Promise<unknown>, cut: () => void): Promise<void> {
	const late = setTimeout(cut, GRACE_MS)
	try {
		await answered
	} finally {
		clearTimeout(late)
	}
}
