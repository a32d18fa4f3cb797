/** For whoever embeds the HTTP door, or writes an entry for another host. */
export { type AppOptions, createApp } from './app.js'
export { type ApiKey, parseApiKeys, type Scope, SCOPES } from './auth.js'
export {
	type AppConfig,
	ConfigError,
	type Environment,
	readAppConfig,
	readServerConfig,
	type ServerConfig,
} from './config.js'
export type { DatabaseSource } from './database.js'
export type { App, HostBindings } from './endpoint.js'
export { createJsonLogger, type LogLevel } from './logger.js'
export { createDatabase, type Database, type DatabaseOptions } from '../src/db/client.js'
