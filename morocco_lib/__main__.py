from morocco_lib.cli import main

raise SystemExit(main())
