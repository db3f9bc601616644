"""A run as a value: settings, command line, folder and result, once for every trainer here.

Needs the standard library and torch (``yaml_files`` also PyYAML). How to use it::

    @dataclass(frozen=True, kw_only=True)
    class Config(Settings):                       # settings.py: types and ranges, checked when made
        steps: Annotated[int, Setting("environment steps", low=1, short="n", was="total_steps")] = 1_000
        lr: Annotated[float, Setting("learning rate", low=0.0)] = 3e-4
        out: Annotated[Path, Setting("folder to write to", free=True)] = Path("runs/x")

    add_arguments(parser, Config)                 # command.py: --steps (-n), --lr, --out; --total-steps
    config = Config(**vars(parser.parse_args()))  #   is refused; the namespace has what was given
    config = Config.of(read_mapping(path))        # yaml_files.py, or a dict: unknown names, close ones
    sys.exit(exit_status("era-x", lambda: train(config)))  # one line on stderr, no traceback

    with locked(config.out):                      # folder.py: one process, files in one piece
        save_state(config.out / "last.pt", {"config": plain(asdict(config)), ...})
        state = read_state(config.out / "last.pt", {"config"}, "era_x")
        config.check_resumes(state["config"], config.out)  # free settings may differ
        cut_rows(config.out / "log.csv", step)    # what was logged after the checkpoint
        with new_checkpoint(run, step) as folder: ...      # several files, with checksums;
        checkpoint = newest_intact(run)                    #   the newest that is whole
    record = read_record(path, config)            # record.py: None, the record, or refused
    write_json(path, {"config": config, **result, **provenance(["torch"], code=Path(__file__).parent)})

Words of every command line: ``--steps`` (``-n``), ``--out``, ``--resume``, ``--seed``, ``--device``,
``--threads``, ``--n-envs``, ``--eval-freq``, ``--eval-episodes``, ``--save-freq``, ``--progress``.
"""
