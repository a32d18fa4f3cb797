/** The content-moderation example, put together: blueprints, and nodes with the detectors that the environment asks for. */
import type { NodeRegistry, WorkflowBlueprint } from 'flowcraft'
import { banUser, contentModeration, deleteSpam, redactPost } from './blueprints.js'
import { localDetectors, type ModerationDetectors } from './detectors.js'
import { readLlmConfig, type ModerationEnvironment } from './llm/llm-config.js'
import { llmDetectors } from './llm/llm-detectors.js'
import { createModerationNodes } from './nodes.js'

interface Workflows {
	readonly blueprints: Record<string, WorkflowBlueprint>
	readonly registry: NodeRegistry
}

/**
 * Asks the language model at `MODERATION_LLM_URL` if that is set, and the built-in detectors otherwise.
 * @throws EnvironmentError that names every faulty variable.
 */
export function createContentModeration(env: ModerationEnvironment): Workflows {
	const llm = readLlmConfig(env)
	return assembleContentModeration(llm ? llmDetectors(llm) : localDetectors())
}

/** The same with detectors of your own. */
export function assembleContentModeration(detectors: ModerationDetectors): Workflows {
	const blueprints = [contentModeration, banUser, redactPost, deleteSpam]
	return {
		blueprints: Object.fromEntries(blueprints.map((blueprint) => [blueprint.id, blueprint])),
		registry: createModerationNodes(detectors),
	}
}
