"""Tests of the hosts that do not apply to the ERA classes: part of the node id, and the reason."""

SDE = "asks for use_sde, which the ERA classes refuse: gSDE's noise has no entropy floor per state"
ENT_COEF = "asks for an entropy coefficient, which the off-policy ERA classes do not have"
STOCK_POLICY = "hands a policy class without a head, which the ERA classes refuse by name"

DESELECTED: dict[str, str] = {
    "test_sde.py": SDE,
    "test_distributions.py::test_squashed_gaussian": SDE,
    "test_her.py::test_save_load[True-SACERA]": SDE,
    "test_run.py::test_offpolicy_multi_env[SACERA]": SDE,
    "test_save_load.py::test_save_load_policy[True-": SDE,
    "test_spaces.py::test_sde_multi_dim": SDE,
    "test_run.py::test_sde[": SDE,
    "test_run.py::test_sac[": ENT_COEF,
    "test_run.py::test_tqc[": ENT_COEF,
    "test_save_load.py::test_save_load_pytorch_var": ENT_COEF,
    "test_gae.py::test_gae_computation": STOCK_POLICY,
    "test_logger.py::test_fps_logger": "times the machine",
    "test_run.py::test_ppo_warnings": "expects the name PPO in a warning; ours names PPOERA",
    "test_identity.py::test_discrete[env2-PPOERA]": (
        "asks for 90 of 100 after 1,280 steps with seed 3, to which it is fitted: of seeds 0 to 9 PPO "
        "passes with 2, PPOERA with 7, but not with 3 (87.6)"
    ),
    "test_identity.py::test_continuous[PPOERA]": (
        "1,000 steps with a policy that starts at 1.4 nats in the host and at -0.3 here; learning is "
        "tested in tests/sb3/test_sb3_learning.py"
    ),
}

NOT_IN_HUB = "takes models, images or texts that the stand-in for the Hub does not have"
TOKENS = "gives token ids of Qwen3's own tokenizer, which the stand-in for the Hub does not have"
OLDER = "of TRL 1.10, the newest checkout that was had: fails with the own trainer of TRL 1.16"

TRL: dict[str, str] = {
    "tiny-Gemma3ForConditionalGeneration]": NOT_IN_HUB,
    "tiny-Gemma4ForConditionalGeneration]": NOT_IN_HUB,
    "tiny-LlavaNextForConditionalGeneration]": NOT_IN_HUB,
    "tiny-Qwen2VLForConditionalGeneration]": NOT_IN_HUB,
    "tiny-Qwen3_5ForConditionalGeneration-NoThink]": NOT_IN_HUB,
    "tiny-Qwen3_5MoeForConditionalGeneration-3.6]": NOT_IN_HUB,
    "tiny-SmolVLMForConditionalGeneration]": NOT_IN_HUB,
    "::test_train_vlm_with_pad_to_multiple_of": NOT_IN_HUB,
    "::test_train_vlm_log_multimodal_false": NOT_IN_HUB,
    "tiny-Glm4MoeForCausalLM]": NOT_IN_HUB,
    "tiny-NemotronHForCausalLM-nano]": NOT_IN_HUB,
    "::test_trust_remote_code": NOT_IN_HUB,
    "::test_prepare_input_called_with_correct_data": NOT_IN_HUB,
    "::test_train_with_mask_truncated_completions": NOT_IN_HUB,
    "::test_train_with_tools": TOKENS,
    "environment_": TOKENS,
    "_environments": TOKENS,
    "::test_train_with_malformed_tool_calls": TOKENS,
    "::test_generate_prefers_rollout_func": OLDER,
    "::test_generate_rollout_func_syncs_vllm_weights_when_needed": OLDER,
    "::test_liger_kernel_with_peft": OLDER,
    "::test_train_moe_peft_model": OLDER,
    "::test_entropy_bonus_flows_gradients": OLDER,
}
