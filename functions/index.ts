/** For whoever embeds the HTTP door, or writes an entry for another host. */
export { type AppOptions, createApp } from './app.js'
export { type ApiKey, parseApiKeys, type Scope, SCOPES } from './auth.js'
export { type AppConfig, readAppConfig, readServerConfig, type ServerConfig } from './config.js'
export type { DatabaseSource } from './database.js'
export type { App, HostBindings } from './endpoint.js'
export { createJsonLogger, type LogLevel } from './logger.js'
export { type Environment, EnvironmentError } from '../src/environment.js'
export { createDatabase, type Database, type DatabaseOptions } from '../src/db/client.js'
