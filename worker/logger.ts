/** The processes' log: one JSON object per line, a constant message plus fields. */
import { pino } from 'pino'
import type { Logger } from '../src/ports/logger.js'

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const
export type LogLevel = (typeof LOG_LEVELS)[number]

/** @param name which process it is: `relay`, `worker`, `functions` */
export function createLogger(name: string, level: LogLevel = 'info'): Logger {
	const logger = pino({ name, level, serializers: { error: pino.stdSerializers.err } })
	return {
		debug: (message, fields) => logger.debug(fields ?? {}, message),
		info: (message, fields) => logger.info(fields ?? {}, message),
		warn: (message, fields) => logger.warn(fields ?? {}, message),
		error: (message, fields) => logger.error(fields ?? {}, message),
	}
}
