/** What the environment says, read once and checked as a whole: all faults are told together. */
import { z } from 'zod'
import {
	databaseUrl,
	type Environment,
	listOf,
	publicUrl,
	readEnvironment,
	redactKeys,
	wholeNumber,
} from '../src/environment.js'
import { type ApiKey, parseApiKeys } from './auth.js'
import { DEFAULT_EVENT_KEEP_MS } from '../src/run/events.js'
import { DEFAULT_MAX_REQUESTS } from './admission.js'
import { DEFAULT_BODY_LIMIT_BYTES } from './body.js'
import { DEFAULT_DATABASE_DEADLINE_MS, DEFAULT_DATABASE_QUEUE_SIZE } from './database.js'
import {
	DEFAULT_CLOCK_TOLERANCE_MS,
	DEFAULT_JWKS_CACHE_MS,
	DEFAULT_JWT_ALGORITHMS,
	JWT_ALGORITHMS,
	type JwtAlgorithm,
	type JwtOptions,
} from './jwt.js'
import { LOG_LEVELS, type LogLevel } from './logger.js'
import { parseRateLimit, type RateLimit } from './rate-limit.js'
import { DEFAULT_STREAM_MS } from './routes/runs/stream.js'

/** For `createApp`, on any host. */
export interface AppConfig {
	readonly databaseUrl: string
	/** Connections at most. */
	readonly databasePoolSize: number
	readonly databaseDeadlineMs: number
	readonly databaseQueueSize: number
	/** False behind a pooler in transaction mode. */
	readonly databasePrepare: boolean
	readonly apiKeys: readonly ApiKey[]
	readonly jwt?: JwtOptions
	readonly callerLimit?: RateLimit
	readonly addressLimit?: RateLimit
	readonly addressHeader?: string
	readonly maxRequests: number
	readonly corsOrigins: readonly string[]
	readonly redactKeys: readonly string[]
	readonly bodyLimitBytes: number
	readonly eventKeepMs: number
	readonly streamMs: number
	readonly publicUrl?: string
	readonly logLevel: LogLevel
}

/** For hosts that listen on a port of their own. */
export interface ServerConfig extends AppConfig {
	readonly host: string
	/** 0: any free one. */
	readonly port: number
}

const apiKeys = z
	.string()
	.default('')
	.transform((text, context) => {
		const { keys, faults } = parseApiKeys(text)
		for (const message of faults)
			context.addIssue({ code: 'custom', message: `is not valid: ${message}` })
		return keys
	})

const rateLimit = z
	.string()
	.refine(
		(text) => parseRateLimit(text) !== undefined,
		'must be a number of requests per second, minute or hour, such as 600/m',
	)
	.transform((text) => parseRateLimit(text) as RateLimit)

const origin = (text: string): boolean =>
	text === '*' || (URL.canParse(text) && new URL(text).origin === text)
const isAlgorithm = (text: string): text is JwtAlgorithm =>
	(JWT_ALGORITHMS as readonly string[]).includes(text)
/** Keys that came over a readable line could be anybody's. */
const isTrustworthy = (url: string): boolean =>
	URL.canParse(url) &&
	(url.startsWith('https://') || (url.startsWith('http://') && isLoopback(new URL(url).hostname)))

const claim = (fallback: string) =>
	z.string().max(200, 'must not be longer than 200 characters').default(fallback)

const jwtVariables = {
	JWT_JWKS_URL: z
		.string()
		.refine(isTrustworthy, 'must be an https URL, or an http URL of this machine')
		.optional(),
	JWT_ISSUER: z.string().optional(),
	JWT_AUDIENCE: listOf(() => true, '').optional(),
	JWT_ALGORITHMS: listOf(isAlgorithm, `must be among ${JWT_ALGORITHMS.join(', ')}`).default([
		...DEFAULT_JWT_ALGORITHMS,
	]),
	JWT_SCOPES_CLAIM: claim('scope'),
	JWT_SCOPES_PREFIX: claim(''),
	JWT_CALLER_CLAIM: claim('sub'),
	JWT_CLOCK_TOLERANCE_MS: wholeNumber(0, 600_000, DEFAULT_CLOCK_TOLERANCE_MS),
	JWT_JWKS_CACHE_MS: wholeNumber(1_000, 86_400_000, DEFAULT_JWKS_CACHE_MS),
}

const appVariables = z.object({
	DATABASE_URL: databaseUrl,
	DATABASE_POOL_SIZE: wholeNumber(1, 1000, 10),
	DATABASE_DEADLINE_MS: wholeNumber(1, 600_000, DEFAULT_DATABASE_DEADLINE_MS),
	DATABASE_QUEUE_SIZE: wholeNumber(0, 1_000_000, DEFAULT_DATABASE_QUEUE_SIZE),
	DATABASE_PREPARE: z
		.enum(['true', 'false'], 'must be true or false')
		.default('true')
		.transform((text) => text === 'true'),
	API_KEYS: apiKeys,
	...jwtVariables,
	RATE_LIMIT_PER_CALLER: rateLimit.optional(),
	RATE_LIMIT_PER_ADDRESS: rateLimit.optional(),
	CLIENT_ADDRESS_HEADER: z
		.string()
		.regex(/^[\w-]+$/, 'must be the name of a header')
		.optional(),
	MAX_REQUESTS: wholeNumber(1, 1_000_000, DEFAULT_MAX_REQUESTS),
	CORS_ORIGINS: listOf(origin, 'must be origins such as https://app.example.com, or *').default([]),
	REDACT_KEYS: redactKeys,
	BODY_LIMIT_BYTES: wholeNumber(1, 256 * 1024 * 1024, DEFAULT_BODY_LIMIT_BYTES),
	STREAM_MS: wholeNumber(1000, 86_400_000, DEFAULT_STREAM_MS),
	EVENT_KEEP_MS: wholeNumber(0, 31_536_000_000, DEFAULT_EVENT_KEEP_MS),
	PUBLIC_URL: publicUrl.optional(),
	LOG_LEVEL: z.enum(LOG_LEVELS, `must be one of ${LOG_LEVELS.join(', ')}`).default('info'),
})

const serverVariables = appVariables.extend({
	HOST: z
		.string()
		.regex(/^[^\s/]+$/, 'must be a host name or an address')
		.default('127.0.0.1'),
	PORT: wholeNumber(0, 65_535, 3000),
})

/** @throws EnvironmentError */
export function readAppConfig(env: Environment): AppConfig {
	return appConfigOf(readEnvironment(env, appVariables, tokenFaults(env)))
}

/**
 * For hosts that everybody can reach: refuses to be without API keys or an issuer of tokens.
 *
 * @param poolSize connections at most, where the environment does not say
 * @throws EnvironmentError
 */
export function readHostConfig(env: Environment, poolSize: number): AppConfig {
	const variables = readEnvironment(
		{ ...env, DATABASE_POOL_SIZE: env['DATABASE_POOL_SIZE'] || String(poolSize) },
		appVariables,
		[
			...tokenFaults(env),
			...(isOpen(env)
				? [
						'API_KEYS is not set, but others can reach this host: set API_KEYS=name:secret (or JWT_JWKS_URL)',
					]
				: []),
		],
	)
	return appConfigOf(variables)
}

/** Refuses to be reachable from elsewhere without API keys or an issuer of tokens. @throws EnvironmentError */
export function readServerConfig(env: Environment): ServerConfig {
	const variables = readEnvironment(env, serverVariables, [...tokenFaults(env), ...exposureFaults(env)])
	return { ...appConfigOf(variables), host: variables.HOST, port: variables.PORT }
}

/** A token is only checked whole: whose it is, for whom, and under which keys. */
function tokenFaults(env: Environment): string[] {
	const isSet = (name: string): boolean => (env[name] ?? '') !== ''
	const needed = ['JWT_JWKS_URL', 'JWT_ISSUER', 'JWT_AUDIENCE']
	const given = needed.filter(isSet)
	const [first] = given
	if (first === undefined || given.length === needed.length) return []
	return needed
		.filter((name) => !isSet(name))
		.map((name) => `${name} is not set, but ${first} is: tokens need all of ${needed.join(', ')}`)
}

/** Whether everybody who reaches it may do everything. */
const isOpen = ({ API_KEYS: keys = '', JWT_JWKS_URL: jwksUrl = '' }: Environment): boolean =>
	keys.replaceAll(/[\s,]/g, '') === '' && jwksUrl === ''

function exposureFaults(env: Environment): string[] {
	const { HOST: host = '' } = env
	if (!isOpen(env) || host === '' || isLoopback(host)) return []
	return [
		`API_KEYS is not set, but HOST is '${host}', where others can reach it: set API_KEYS=name:secret (or JWT_JWKS_URL), or HOST=127.0.0.1`,
	]
}

const isLoopback = (host: string): boolean => /^(localhost|127(\.\d{1,3}){3}|\[?::1\]?)$/i.test(host)

function appConfigOf(variables: z.output<typeof appVariables>): AppConfig {
	const jwt = jwtOf(variables)
	return {
		databaseUrl: variables.DATABASE_URL,
		databasePoolSize: variables.DATABASE_POOL_SIZE,
		databaseDeadlineMs: variables.DATABASE_DEADLINE_MS,
		databaseQueueSize: variables.DATABASE_QUEUE_SIZE,
		databasePrepare: variables.DATABASE_PREPARE,
		apiKeys: variables.API_KEYS,
		...(jwt === undefined ? {} : { jwt }),
		...given('callerLimit', variables.RATE_LIMIT_PER_CALLER),
		...given('addressLimit', variables.RATE_LIMIT_PER_ADDRESS),
		...given('addressHeader', variables.CLIENT_ADDRESS_HEADER),
		maxRequests: variables.MAX_REQUESTS,
		corsOrigins: variables.CORS_ORIGINS,
		redactKeys: variables.REDACT_KEYS,
		bodyLimitBytes: variables.BODY_LIMIT_BYTES,
		eventKeepMs: variables.EVENT_KEEP_MS,
		streamMs: variables.STREAM_MS,
		...given('publicUrl', variables.PUBLIC_URL),
		logLevel: variables.LOG_LEVEL,
	}
}

const given = <K extends string, V>(name: K, value: V | undefined): { readonly [N in K]?: V } =>
	(value === undefined ? {} : { [name]: value }) as { readonly [N in K]?: V }

function jwtOf(variables: z.output<typeof appVariables>): JwtOptions | undefined {
	const { JWT_JWKS_URL: jwksUrl, JWT_ISSUER: issuer, JWT_AUDIENCE: audience } = variables
	if (jwksUrl === undefined || issuer === undefined || audience === undefined) return undefined
	return {
		jwksUrl,
		issuer,
		audience,
		algorithms: variables.JWT_ALGORITHMS,
		scopesClaim: variables.JWT_SCOPES_CLAIM,
		scopesPrefix: variables.JWT_SCOPES_PREFIX,
		callerClaim: variables.JWT_CALLER_CLAIM,
		clockToleranceMs: variables.JWT_CLOCK_TOLERANCE_MS,
		jwksCacheMs: variables.JWT_JWKS_CACHE_MS,
	}
}
