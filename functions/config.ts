/** What the environment says, read once and checked as a whole: all faults are told together. */
import { z } from 'zod'
import { databaseUrl, type Environment, publicUrl, readEnvironment, wholeNumber } from '../src/environment.js'
import { type ApiKey, parseApiKeys } from './auth.js'
import { DEFAULT_EVENT_KEEP_MS } from '../src/run/events.js'
import { DEFAULT_BODY_LIMIT_BYTES } from './body.js'
import { DEFAULT_DATABASE_DEADLINE_MS } from './database.js'
import { LOG_LEVELS, type LogLevel } from './logger.js'

/** For `createApp`, on any host. */
export interface AppConfig {
	readonly databaseUrl: string
	/** Connections at most. */
	readonly databasePoolSize: number
	readonly databaseDeadlineMs: number
	readonly apiKeys: readonly ApiKey[]
	readonly bodyLimitBytes: number
	readonly eventKeepMs: number
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

const appVariables = z.object({
	DATABASE_URL: databaseUrl,
	DATABASE_POOL_SIZE: wholeNumber(1, 1000, 10),
	DATABASE_DEADLINE_MS: wholeNumber(1, 600_000, DEFAULT_DATABASE_DEADLINE_MS),
	API_KEYS: apiKeys,
	BODY_LIMIT_BYTES: wholeNumber(1, 256 * 1024 * 1024, DEFAULT_BODY_LIMIT_BYTES),
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
	return appConfigOf(readEnvironment(env, appVariables))
}

/** Refuses to be reachable from elsewhere without API keys. @throws EnvironmentError */
export function readServerConfig(env: Environment): ServerConfig {
	const variables = readEnvironment(env, serverVariables, exposureFaults(env))
	return { ...appConfigOf(variables), host: variables.HOST, port: variables.PORT }
}

function exposureFaults({ HOST: host = '', API_KEYS: keys = '' }: Environment): string[] {
	if (keys !== '' || host === '' || isLoopback(host)) return []
	return [
		`API_KEYS is not set, but HOST is '${host}', where others can reach it: set API_KEYS=name:secret, or HOST=127.0.0.1`,
	]
}

const isLoopback = (host: string): boolean => /^(localhost|127(\.\d{1,3}){3}|\[?::1\]?)$/i.test(host)

function appConfigOf(variables: z.output<typeof appVariables>): AppConfig {
	return {
		databaseUrl: variables.DATABASE_URL,
		databasePoolSize: variables.DATABASE_POOL_SIZE,
		databaseDeadlineMs: variables.DATABASE_DEADLINE_MS,
		apiKeys: variables.API_KEYS,
		bodyLimitBytes: variables.BODY_LIMIT_BYTES,
		eventKeepMs: variables.EVENT_KEEP_MS,
		...(variables.PUBLIC_URL === undefined ? {} : { publicUrl: variables.PUBLIC_URL }),
		logLevel: variables.LOG_LEVEL,
	}
}
