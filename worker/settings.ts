/** The environment of the long-lived processes. `.env.example` documents each variable. */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { z } from 'zod'
import {
	databaseUrl,
	type Environment,
	EnvironmentError,
	publicUrl,
	rabbitMqUrl,
	readEnvironment,
	redactKeys,
	redisUrl,
	wholeNumber,
} from '../src/environment.js'
import { createRedactor, type Redactor, secretsOf } from '../src/redaction.js'
import { LOG_LEVELS } from './logger.js'

const common = {
	RABBITMQ_URL: rabbitMqUrl,
	DATABASE_URL: databaseUrl,
	REDIS_URL: redisUrl.optional(),
	QUEUE_NAME: z
		.string()
		.regex(/^[\w.-]{1,200}$/, 'must be letters, digits, dots, dashes and underscores')
		.default('flowcraft-jobs'),
	METRICS_PORT: wholeNumber(0, 65_535, 0),
	METRICS_HOST: z.string().default('127.0.0.1'),
	REDACT_KEYS: redactKeys,
	LOG_LEVEL: z.enum(LOG_LEVELS, `must be one of ${LOG_LEVELS.join(', ')}`).default('info'),
}

const relay = {
	/** Grace before a message counts as lost. */
	STALLED_MS: wholeNumber(100, 86_400_000, 30_000),
	SWEEP_MS: wholeNumber(50, 3_600_000, 1_000),
	RELAY_CLAIM_MS: wholeNumber(500, 600_000, 10_000),
	RELAY_ALARM: z
		.enum(['true', 'false'], 'must be true or false')
		.default('true')
		.transform((text) => text === 'true'),
}

const worker = {
	/** Relative to the working directory. Looked for at once, so that its absence is told with every other fault. */
	WORKFLOWS: z
		.string()
		.transform((path) => resolve(path))
		.refine(existsSync, { error: ({ input }) => `names ${String(input)}, which does not exist` })
		.optional(),
	CONCURRENCY: wholeNumber(1, 10_000, 32),
	LEASE_MS: wholeNumber(500, 3_600_000, 15_000),
	DRAIN_MS: wholeNumber(0, 86_400_000, 30_000),
	UNRUNNABLE_MS: wholeNumber(0, 2_592_000_000, 3_600_000),
	WORKER_POOL: wholeNumber(1, 200, 6),
	TRANSACTION_POOL: wholeNumber(1, 200, 4),
	PUBLIC_URL: publicUrl.optional(),
	/** Where the functions are if PUBLIC_URL does not say: on this machine. */
	PORT: wholeNumber(0, 65_535, 3000),
	WEBHOOK_SECRET: z.string().min(32, 'must have at least 32 characters').optional(),
}

const relaySchema = z.object({ ...common, ...relay })
const workerSchema = z.object({ ...common, ...worker })
const allInOneSchema = z.object({
	...common,
	...relay,
	...worker,
	DATABASE_URL: databaseUrl.optional(),
	RABBITMQ_URL: rabbitMqUrl.optional(),
	DATA_DIR: z.string().default('.data'),
})

export type RelaySettings = z.infer<typeof relaySchema>
export type WorkerSettings = z.infer<typeof workerSchema>
export type AllInOneSettings = z.infer<typeof allInOneSchema>

/** Keeps configured names, and the secrets that this process was given, out of its log. */
export const logRedactor = (
	settings: { readonly REDACT_KEYS: readonly string[] },
	env: Environment,
): Redactor => createRedactor({ keys: settings.REDACT_KEYS, secrets: secretsOf(env) })

/** The worker's options for webhooks. */
export function webhookOptions(settings: Pick<WorkerSettings, 'PUBLIC_URL' | 'PORT' | 'WEBHOOK_SECRET'>): {
	publicUrl: string
	webhookSecret?: string
} {
	return {
		publicUrl: settings.PUBLIC_URL ?? `http://127.0.0.1:${settings.PORT}`,
		...(settings.WEBHOOK_SECRET === undefined ? {} : { webhookSecret: settings.WEBHOOK_SECRET }),
	}
}

/** @throws EnvironmentError */
export const readRelaySettings = (env: Environment): RelaySettings => readEnvironment(env, relaySchema)

/** @throws EnvironmentError */
export const readWorkerSettings = (env: Environment): WorkerSettings => readEnvironment(env, workerSchema)

/** Where the all-in-one process keeps its data and sends its messages. */
export type Services =
	| { readonly type: 'embedded' }
	| {
			readonly type: 'given'
			readonly databaseUrl: string
			readonly rabbitMqUrl: string
			readonly redisUrl: string
	  }

/**
 * All three URLs, or none.
 * @throws EnvironmentError, also for a half-set environment
 */
export function readAllInOneSettings(env: Environment): { settings: AllInOneSettings; services: Services } {
	const settings = readEnvironment(env, allInOneSchema)
	const { DATABASE_URL, RABBITMQ_URL, REDIS_URL } = settings
	const missing = Object.entries({ DATABASE_URL, RABBITMQ_URL, REDIS_URL }).filter(
		([, url]) => url === undefined,
	)
	if (missing.length === 3) return { settings, services: { type: 'embedded' } }
	if (DATABASE_URL === undefined || RABBITMQ_URL === undefined || REDIS_URL === undefined) {
		throw new EnvironmentError([
			`${missing.map(([name]) => name).join(' and ')} ${missing.length > 1 ? 'are' : 'is'} not set: npm start takes DATABASE_URL, RABBITMQ_URL and REDIS_URL together, or none of them for embedded services.`,
		])
	}
	return {
		settings,
		services: {
			type: 'given',
			databaseUrl: DATABASE_URL,
			rabbitMqUrl: RABBITMQ_URL,
			redisUrl: REDIS_URL,
		},
	}
}
