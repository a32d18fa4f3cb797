/** Where the language model is, as the environment says it. Read when the workflow is put together, not on import. */
import { z } from 'zod'
import { EnvironmentError } from '../../../../src/environment.js'

export interface LlmConfig {
	/** Base URL of an OpenAI-compatible API, up to and including its version: `https://llm.example/v1`. */
	readonly url: string
	readonly model: string
	/** Local servers often need none. */
	readonly apiKey?: string | undefined
}

export type ModerationEnvironment = Readonly<Partial<Record<string, string>>>

const schema = z.object({
	MODERATION_LLM_URL: z.url({
		protocol: /^https?$/,
		error: 'must be an http(s) URL such as https://llm.example/v1',
	}),
	MODERATION_LLM_MODEL: z.string({ error: 'is required when MODERATION_LLM_URL is set' }),
	MODERATION_LLM_API_KEY: z.string().optional(),
})

/**
 * The configuration, or undefined if no variable of it is set (an empty one counts as not set).
 * @throws EnvironmentError that names every faulty variable. A model or key without a URL is one: quietly moderating with
 * word lists is not what was meant.
 */
export function readLlmConfig(env: ModerationEnvironment): LlmConfig | undefined {
	const present = Object.fromEntries(
		Object.keys(schema.shape).map((name) => [name, env[name]?.trim() || undefined]),
	)
	if (Object.values(present).every((value) => value === undefined)) return undefined
	const parsed = schema.safeParse(present)
	if (!parsed.success)
		throw new EnvironmentError(
			parsed.error.issues.map((issue) => `${issue.path.join('.')} ${issue.message}`),
		)
	const {
		MODERATION_LLM_URL: url,
		MODERATION_LLM_MODEL: model,
		MODERATION_LLM_API_KEY: apiKey,
	} = parsed.data
	return { url: url.replace(/\/+$/, ''), model, apiKey }
}
