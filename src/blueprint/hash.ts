/** Content hashes: of blueprints, which name their versions, and of requests, which idempotency keys compare. */

/** JSON with sorted keys and without `undefined`: equal contents give equal texts. */
export function canonicalJson(value: unknown): string {
	if (Array.isArray(value))
		return `[${value.map((item) => canonicalJson(item === undefined ? null : item)).join(',')}]`
	if (typeof value === 'object' && value !== null) {
		const entries = Object.entries(value)
			.filter(([, item]) => item !== undefined)
			.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
			.map(([key, item]) => `${JSON.stringify(key)}:${canonicalJson(item)}`)
		return `{${entries.join(',')}}`
	}
	return JSON.stringify(value) ?? 'null'
}

/** The first 32 hex digits of the SHA-256 of a text: 128 bits name things safely and stay readable. */
export async function contentHash(text: string): Promise<string> {
	const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text))
	return Array.from(new Uint8Array(digest).subarray(0, 16), (byte) =>
		byte.toString(16).padStart(2, '0'),
	).join('')
}
