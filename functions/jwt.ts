/**
 * Bearer tokens of an identity provider, as an alternative to API keys: JSON Web Tokens, checked against the keys that
 * it publishes (JWKS). Only what the operator names is trusted: one issuer, the audiences and algorithms of a list.
 */
import { createLocalJWKSet, createRemoteJWKSet, errors, type JWTVerifyGetKey, jwtVerify } from 'jose'
import { type Caller, type Scope, SCOPES } from './scopes.js'
import { HttpProblem } from './problem.js'

/** Signatures whose keys can be published. HMAC is not among them: who can check such a token can also forge it. */
export const JWT_ALGORITHMS = [
	'RS256',
	'RS384',
	'RS512',
	'PS256',
	'PS384',
	'PS512',
	'ES256',
	'ES384',
	'ES512',
	'EdDSA',
] as const
export type JwtAlgorithm = (typeof JWT_ALGORITHMS)[number]

export interface JwtOptions {
	/** Where the issuer publishes its keys. */
	readonly jwksUrl: string
	/** `iss` has to be this. */
	readonly issuer: string
	/** `aud` has to name one of these. */
	readonly audience: readonly string[]
	/** Default RS256, PS256, ES256 and EdDSA. */
	readonly algorithms?: readonly JwtAlgorithm[]
	/** The claim that lists scopes, as a text with spaces between them or as an array. Default `scope`. */
	readonly scopesClaim?: string
	/** What our scopes begin with there, such as `flowcraft:`. Default ''. */
	readonly scopesPrefix?: string
	/** The claim that names the caller. Default `sub`. */
	readonly callerClaim?: string
	/** How far the issuer's clock may be off, in ms. Default 5000. */
	readonly clockToleranceMs?: number
	/** How long the issuer's keys count as current, in ms. Default ten minutes. */
	readonly jwksCacheMs?: number
	/** How soon a token under an unknown key may make us ask for the keys again, in ms. Default 30000. */
	readonly jwksCooldownMs?: number
}

export const DEFAULT_JWT_ALGORITHMS: readonly JwtAlgorithm[] = ['RS256', 'PS256', 'ES256', 'EdDSA']
export const DEFAULT_JWKS_CACHE_MS = 10 * 60_000
export const DEFAULT_CLOCK_TOLERANCE_MS = 5_000

const DEFAULT_COOLDOWN_MS = 30_000
/** While the issuer cannot be reached, the keys that it had are good for so much longer, in ms. */
const MAX_STALE_MS = 60 * 60_000
const FETCH_TIMEOUT_MS = 5_000
const MAX_CALLER_LENGTH = 256

/** The caller that a token names; undefined if the token is not good. */
export type VerifyToken = (token: string) => Promise<Caller | undefined>

/** Nothing is fetched before the first token. */
export function createTokenVerifier(options: JwtOptions): VerifyToken {
	const keys = issuerKeys(options)
	const callerClaim = options.callerClaim ?? 'sub'
	return async (token) => {
		try {
			const { payload } = await jwtVerify(token, keys, {
				issuer: options.issuer,
				audience: [...options.audience],
				algorithms: [...(options.algorithms ?? DEFAULT_JWT_ALGORITHMS)],
				clockTolerance: (options.clockToleranceMs ?? DEFAULT_CLOCK_TOLERANCE_MS) / 1000,
				requiredClaims: ['exp', callerClaim],
			})
			const name = callerName(payload[callerClaim])
			return name === undefined ? undefined : { name, scopes: scopesOf(payload, options) }
		} catch (error) {
			if (isTokensFault(error)) return undefined
			throw new HttpProblem(
				'unavailable',
				'The keys that tokens are checked with cannot be fetched. Try again.',
				{
					cause: error,
				},
			)
		}
	}
}

/** Three parts, as every signed token has: an API key may look so too, and is tried first. */
export const looksLikeToken = (text: string): boolean => /^[\w-]+\.[\w-]+\.[\w-]+$/.test(text)

/**
 * The issuer's keys: kept, asked for again when they are old or a token is under a key that is not among them, and used
 * for an hour beyond their time while the issuer is away.
 */
function issuerKeys({
	jwksUrl,
	jwksCacheMs = DEFAULT_JWKS_CACHE_MS,
	jwksCooldownMs = DEFAULT_COOLDOWN_MS,
}: JwtOptions): JWTVerifyGetKey {
	const remote = createRemoteJWKSet(new URL(jwksUrl), {
		cacheMaxAge: jwksCacheMs,
		cooldownDuration: jwksCooldownMs,
		timeoutDuration: FETCH_TIMEOUT_MS,
	})
	/** When the issuer's keys were last had, and when they were last asked for in vain. */
	let hadAt = Number.NEGATIVE_INFINITY
	let failedAt = Number.NEGATIVE_INFINITY
	return async (header, token) => {
		if (remote.fresh) return remote(header, token)
		const now = performance.now()
		const old = now - hadAt < jwksCacheMs + MAX_STALE_MS ? remote.jwks() : undefined
		// Asked in vain just now: the old ones have to do, so that an outage does not cost each request its time.
		if (old !== undefined && now - failedAt < jwksCooldownMs) return createLocalJWKSet(old)(header, token)
		try {
			await remote.reload()
			hadAt = performance.now()
		} catch (error) {
			failedAt = performance.now()
			if (old === undefined) throw error
			return createLocalJWKSet(old)(header, token)
		}
		return remote(header, token)
	}
}

/** Anything else is the fault of the issuer, or of the way there. */
function isTokensFault(error: unknown): boolean {
	return (
		error instanceof errors.JOSEError &&
		!(error instanceof errors.JWKSTimeout) &&
		!(error instanceof errors.JWKSInvalid) &&
		error.code !== errors.JOSEError.code
	)
}

/** Kept apart from the names of API keys, so that no token shares their idempotency keys. */
function callerName(claim: unknown): string | undefined {
	if (typeof claim !== 'string' || claim === '' || claim.length > MAX_CALLER_LENGTH) return undefined
	return claim.includes('\u0000') || !claim.isWellFormed() ? undefined : `jwt:${claim}`
}

function scopesOf(
	payload: Readonly<Record<string, unknown>>,
	{ scopesClaim = 'scope', scopesPrefix = '' }: JwtOptions,
): ReadonlySet<Scope> {
	const claim = payload[scopesClaim]
	const named: readonly unknown[] =
		typeof claim === 'string' ? claim.split(' ') : Array.isArray(claim) ? claim : []
	return new Set(SCOPES.filter((scope) => named.includes(scopesPrefix + scope)))
}
