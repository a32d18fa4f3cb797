/** What the environment says, read once and checked as a whole: all faults are told together. */
import { z } from 'zod'
import { type ApiKey, parseApiKeys } from './auth.js'
import { DEFAULT_BODY_LIMIT_BYTES } from './body.js'
import { DEFAULT_DATABASE_DEADLINE_MS } from './database.js'
import { LOG_LEVELS, type LogLevel } from './logger.js'

export type Environment = Readonly<Record<string, string | undefined>>

/** For `createApp`, on any host. */
export interface AppConfig {
	readonly databaseUrl: string
	/** Connections at most. */
	readonly databasePoolSize: number
	readonly databaseDeadlineMs: number
	readonly apiKeys: readonly ApiKey[]
	readonly bodyLimitBytes: number
	readonly publicUrl?: string
	readonly logLevel: LogLevel
}

/** For hosts that listen on a port of their own. */
export interface ServerConfig extends AppConfig {
	readonly host: string
	/** 0: any free one. */
	readonly port: number
}

/** The environment cannot be used. */
export class ConfigError extends Error {
	/** Each begins with the variable's name. */
	readonly faults: readonly string[]

	constructor(faults: readonly string[]) {
		super(`The configuration is invalid:\n${faults.map((fault) => `  ${fault}`).join('\n')}`)
		this.name = 'ConfigError'
		this.faults = faults
	}
}

function integer(min: number, max: number, fallback: number) {
	return z
		.string()
		.default(String(fallback))
		.refine(
			(text) => /^\d{1,15}$/.test(text) && Number(text) >= min && Number(text) <= max,
			`must be a whole number from ${min} to ${max}`,
		)
		.transform(Number)
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
	DATABASE_URL: z
		.string('is not set, for example postgres://user:password@127.0.0.1:5432/flowcraft')
		.regex(/^postgres(ql)?:\/\/[^/]/, 'must begin with postgres:// and name a host'),
	DATABASE_POOL_SIZE: integer(1, 1000, 10),
	DATABASE_DEADLINE_MS: integer(1, 600_000, DEFAULT_DATABASE_DEADLINE_MS),
	API_KEYS: apiKeys,
	BODY_LIMIT_BYTES: integer(1, 256 * 1024 * 1024, DEFAULT_BODY_LIMIT_BYTES),
	PUBLIC_URL: z
		.string()
		.refine((text) => /^https?:\/\//.test(text) && URL.canParse(text), 'must be an http or https URL')
		.transform((text) => text.replace(/\/+$/, ''))
		.optional(),
	LOG_LEVEL: z.enum(LOG_LEVELS, `must be one of ${LOG_LEVELS.join(', ')}`).default('info'),
})

const serverVariables = appVariables.extend({
	HOST: z
		.string()
		.regex(/^[^\s/]+$/, 'must be a host name or an address')
		.default('127.0.0.1'),
	PORT: integer(0, 65_535, 3000),
})

/** @throws ConfigError */
export function readAppConfig(env: Environment): AppConfig {
	return appConfigOf(parse(appVariables, env))
}

/** Refuses to be reachable from elsewhere without API keys. @throws ConfigError */
export function readServerConfig(env: Environment): ServerConfig {
	const variables = parse(serverVariables, env, exposureFaults(env))
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
		...(variables.PUBLIC_URL === undefined ? {} : { publicUrl: variables.PUBLIC_URL }),
		logLevel: variables.LOG_LEVEL,
	}
}

function parse<T extends z.ZodObject>(
	schema: T,
	env: Environment,
	moreFaults: readonly string[] = [],
): z.output<T> {
	// A variable that is set to nothing, as `docker compose` does, is not set.
	const given = Object.fromEntries(
		Object.entries(env).filter(([, value]) => value !== undefined && value !== ''),
	)
	const parsed = schema.safeParse(given)
	const faults = [
		...(parsed.error?.issues ?? []).map((issue) => `${issue.path.join('.')} ${issue.message}`),
		...moreFaults,
	]
	if (!parsed.success || faults.length > 0) throw new ConfigError(faults)
	return parsed.data
}
