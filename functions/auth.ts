/**
 * Who may do what. A key is a named secret with scopes; the name also separates idempotency keys, so that two
 * clients never see each other's runs by choosing the same one.
 */

/**
 * - `read`: runs, blueprints, workers.
 * - `start`: start runs.
 * - `operate`: cancel and resume runs, send events.
 * - `admin`: register blueprints.
 *
 * No scope includes another.
 */
export const SCOPES = ['read', 'start', 'operate', 'admin'] as const
export type Scope = (typeof SCOPES)[number]

export interface ApiKey {
	/** Two keys may share a name: that is how a secret is replaced without a gap. */
	readonly name: string
	/** At least 16 characters. */
	readonly secret: string
	readonly scopes: readonly Scope[]
}

/** Whoever sent a request. */
export interface Caller {
	/** '' where no keys are configured. */
	readonly name: string
	readonly scopes: ReadonlySet<Scope>
}

const ANYONE: Caller = { name: '', scopes: new Set(SCOPES) }

/** The caller of a request with these headers, undefined if it shows no key that we know. */
export type Authenticate = (headers: Headers) => Promise<Caller | undefined>

/** Without keys everybody may do everything. */
export function createAuthenticator(apiKeys: readonly ApiKey[] = []): Authenticate {
	if (apiKeys.length === 0) return async () => ANYONE
	// Digested with the first request: some hosts allow no asynchronous work before one.
	let known: { readonly digest: Uint8Array; readonly caller: Caller }[] | undefined
	return async (headers) => {
		const secret = presentedSecret(headers)
		if (secret === undefined) return undefined
		known ??= await Promise.all(
			apiKeys.map(async (key) => ({
				digest: await sha256(key.secret),
				caller: { name: key.name, scopes: new Set(key.scopes) },
			})),
		)
		const digest = await sha256(secret)
		let caller: Caller | undefined
		// Digests have one length and all of them are compared: the time tells nothing about any secret.
		for (const key of known) if (equal(key.digest, digest)) caller = key.caller
		return caller
	}
}

function presentedSecret(headers: Headers): string | undefined {
	const bearer = /^Bearer +(\S+)$/i.exec(headers.get('authorization') ?? '')?.[1]
	return bearer ?? headers.get('x-api-key') ?? undefined
}

async function sha256(text: string): Promise<Uint8Array> {
	return new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text)))
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
	let difference = a.length ^ b.length
	for (let i = 0; i < a.length; i++) difference |= (a[i] ?? 0) ^ (b[i] ?? 0)
	return difference === 0
}

const MIN_SECRET_LENGTH = 16

/**
 * Reads `name:secret` or `name:secret:read+start`, separated by commas; without scopes a key has all of them.
 * Faults name keys by their name or place, never by their secret.
 */
export function parseApiKeys(text: string): {
	readonly keys: readonly ApiKey[]
	readonly faults: readonly string[]
} {
	const keys: ApiKey[] = []
	const faults: string[] = []
	const entries = text.split(',').map((entry) => entry.trim())
	for (const [position, entry] of entries.entries()) {
		if (entry === '') continue
		const [name = '', secret = '', scopeList, ...rest] = entry.split(':')
		// What has no colon may be a bare secret.
		const named = entry.includes(':') && /^[A-Za-z0-9_.-]{1,64}$/.test(name)
		const subject = named ? `the key '${name}'` : `key number ${position + 1}`
		const scopes = scopeList === undefined ? SCOPES : scopeList.split('+')
		if (!named)
			faults.push(`${subject} needs a name of 1 to 64 letters, digits and _ . - before its first colon`)
		if (rest.length > 0) faults.push(`${subject} has more parts than name:secret:scopes`)
		if (secret.length < MIN_SECRET_LENGTH)
			faults.push(`${subject} needs a secret of at least ${MIN_SECRET_LENGTH} characters`)
		if (!/^[\x21-\x7e]*$/.test(secret))
			faults.push(`${subject} has a secret with characters that no header can carry`)
		if (keys.some((key) => key.secret === secret))
			faults.push(`${subject} has the same secret as another one`)
		if (scopes.every(isScope)) keys.push({ name, secret, scopes })
		else faults.push(`${subject} has a scope other than ${SCOPES.join(', ')}`)
	}
	return { keys, faults }
}

const isScope = (text: string): text is Scope => (SCOPES as readonly string[]).includes(text)
