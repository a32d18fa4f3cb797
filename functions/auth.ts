/**
 * Who may do what: API keys, tokens of an identity provider, or both. A key is a named secret with scopes; the name also
 * separates idempotency keys, so that two clients never see each other's runs by choosing the same one.
 */
import { createTokenVerifier, type JwtOptions, looksLikeToken } from './jwt.js'
import { ANYONE, type Caller, type Scope, SCOPES } from './scopes.js'

interface NamedKey {
	/** Two keys may share a name: that is how a secret is replaced without a gap. */
	readonly name: string
	readonly scopes: readonly Scope[]
}

/** A key by its secret, of at least 16 characters, or by the SHA-256 of it, in hexadecimal. */
export type ApiKey = NamedKey &
	(
		| { readonly secret: string; readonly sha256?: never }
		| { readonly sha256: string; readonly secret?: never }
	)

/** The caller of a request with these headers, undefined if it shows nothing that we know. */
export type Authenticate = (headers: Headers) => Promise<Caller | undefined>

/** Without keys and without an issuer of tokens everybody may do everything. */
export function createAuthenticator(apiKeys: readonly ApiKey[] = [], jwt?: JwtOptions): Authenticate {
	if (apiKeys.length === 0 && jwt === undefined) return async () => ANYONE
	const verifyToken = jwt === undefined ? undefined : createTokenVerifier(jwt)
	// Digested with the first request: some hosts allow no asynchronous work before one.
	let known: Promise<readonly KnownKey[]> | undefined
	return async (headers) => {
		const secret = presentedSecret(headers)
		if (secret === undefined) return undefined
		known ??= Promise.all(apiKeys.map(digested))
		const digest = await sha256(secret)
		let caller: Caller | undefined
		// Digests have one length and all of them are compared: the time tells nothing about any secret.
		for (const key of await known) if (equal(key.digest, digest)) caller = key.caller
		return caller ?? (looksLikeToken(secret) ? verifyToken?.(secret) : undefined)
	}
}

interface KnownKey {
	readonly digest: Uint8Array
	readonly caller: Caller
}

async function digested({ name, scopes, secret, sha256: hash }: ApiKey): Promise<KnownKey> {
	return {
		digest: secret === undefined ? fromHex(hash) : await sha256(secret),
		caller: { name, scopes: new Set(scopes) },
	}
}

function presentedSecret(headers: Headers): string | undefined {
	const bearer = /^Bearer +(\S+)$/i.exec(headers.get('authorization') ?? '')?.[1]
	return bearer ?? headers.get('x-api-key') ?? undefined
}

async function sha256(text: string): Promise<Uint8Array> {
	return new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text)))
}

const fromHex = (hex: string): Uint8Array =>
	Uint8Array.from(hex.match(/../g) ?? [], (byte) => Number.parseInt(byte, 16))

function equal(a: Uint8Array, b: Uint8Array): boolean {
	let difference = a.length ^ b.length
	for (let i = 0; i < a.length; i++) difference |= (a[i] ?? 0) ^ (b[i] ?? 0)
	return difference === 0
}

const MIN_SECRET_LENGTH = 16
/** How a hash is told from a secret in API_KEYS. */
const HASH_PREFIX = 'sha256='

/**
 * Reads `name:secret`, `name:sha256=<hash of the secret>` or either with `:read+start` behind it, separated by commas;
 * without scopes a key has all of them. Faults name keys by their name or place, never by their secret.
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
		const hash = secret.startsWith(HASH_PREFIX) ? secret.slice(HASH_PREFIX.length) : undefined
		if (!named)
			faults.push(`${subject} needs a name of 1 to 64 letters, digits and _ . - before its first colon`)
		if (rest.length > 0) faults.push(`${subject} has more parts than name:secret:scopes`)
		if (hash === undefined && secret.length < MIN_SECRET_LENGTH)
			faults.push(`${subject} needs a secret of at least ${MIN_SECRET_LENGTH} characters`)
		if (hash !== undefined && !/^[0-9a-f]{64}$/i.test(hash))
			faults.push(`${subject} needs 64 hexadecimal digits behind ${HASH_PREFIX}`)
		if (!/^[\x21-\x7e]*$/.test(secret))
			faults.push(`${subject} has a secret with characters that no header can carry`)
		const key = hash === undefined ? { secret } : { sha256: hash.toLowerCase() }
		if (keys.some((other) => other.secret === key.secret && other.sha256 === key.sha256))
			faults.push(`${subject} has the same secret as another one`)
		if (scopes.every(isScope)) keys.push({ name, scopes, ...key })
		else faults.push(`${subject} has a scope other than ${SCOPES.join(', ')}`)
	}
	return { keys, faults }
}

const isScope = (text: string): text is Scope => (SCOPES as readonly string[]).includes(text)
